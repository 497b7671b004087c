"""Shared parts of the tools' command lines: flags, one-line errors, progress messages and tables.

The top of this module imports only the standard library, because children that measure imports import it too.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from seer_edge.envs import Environment

EXIT_FAULT, EXIT_BAD_INPUT = 1, 2


class BadInputError(Exception):
    """Invalid input. The message is one line with the flag, the value and what to do."""


class FaultError(Exception):
    """A measurement failed, so that its figures are meaningless."""


class Parser(argparse.ArgumentParser):
    """Parser that raises BadInputError instead of exiting, and does not accept abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise BadInputError with argparse's message."""
        raise BadInputError(message.removeprefix("argument "))


def size(text: str) -> int:
    """Parse a size such as 0.07GB; return bytes."""
    from seer_runtime.system.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def duration(text: str) -> float:
    """Parse a time such as 0.5s or 10min; return seconds."""
    from seer_runtime.system.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str, least: int = 1) -> int:
    """Parse an integer of at least `least`."""
    if not (text.isascii() and text.isdigit() and least <= int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {2**32 - 1}")
    return int(text)


def seed(text: str) -> int:
    """Parse a non-negative integer."""
    return count(text, 0)


def out_file(text: str) -> Path:
    """Parse the path of an output file. Reject one that cannot be written, before anything is measured."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"cannot be written: {path.parent} is not a folder"
        raise argparse.ArgumentTypeError(f"{text} {wrong}; name a file in an existing folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written; name a file elsewhere")
    return path


def any_folder(text: str) -> Path:
    """Parse the path of a folder, new or not."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder")
    return Path(text)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Context manager: raise BadInputError where a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written ({error.strerror}); name another folder") from error


def image_file(text: str) -> Path:
    """Parse the path of an output image, as `out_file` does, with a suffix that matplotlib can write."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = out_file(text)
    if path.suffix.removeprefix(".").lower() not in FigureCanvasBase.filetypes:
        raise argparse.ArgumentTypeError(f"{text} is not an image name; end it in .png, .svg or .pdf")
    return path


def add_env_flags(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Add --env and --seed. Return the group of --env, for arguments that name the environment instead."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--env", default="Alien", help="game, or module:EnvId (Alien)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of all random streams (0)")
    return chosen


def open_environment(flags: argparse.Namespace, resolution: int | None = None) -> "Environment":
    """Build the environment of --env, with frames of side `resolution` or of its default size.

    Raises BadInputError where it cannot be built.
    """
    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.envs.translate_errors import translate_errors

    options = EnvOptions(resolution=resolution)
    with translate_errors(flags.env, options):
        return make_env(flags.env, options, seed=flags.seed, training=True)


def run_tool(prog: str, job: Callable[[], int]) -> int:
    """Run `job` and return its exit status; print its errors as one line on stderr."""
    try:
        return job()
    except BadInputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except FaultError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_FAULT
    except MemoryError as error:
        print(f"{prog}: not enough memory ({error}); ask for less", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Exception as error:
        from seer_edge import errors

        if isinstance(error, errors.BadInputError):
            status = EXIT_BAD_INPUT
        elif isinstance(error, errors.EnvironmentFailedError | errors.RunStoppedError):
            status = EXIT_FAULT
        else:
            raise
        print(f"{prog}: {error}", file=sys.stderr)
        return status


def require(extras: str, *modules: str) -> None:
    """Raise BadInputError where a module is not installed. `extras` are those of seer-edge that install all of them."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise BadInputError(f"the package {module} is missing; pip install 'seer-edge[{extras}]'")


def progress(text: str) -> None:
    """Print a progress message to stderr, separate from the result."""
    print(f"{text} ...", file=sys.stderr, flush=True)


def mb(size_bytes: float | None) -> str:
    """Format bytes as megabytes with one decimal; None as "-"."""
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def render(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """Return a text table with the first column left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in (header, *lines))
    )
