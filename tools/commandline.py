"""What the command lines of the tools share: flags, errors of one line, progress and tables.

Only the standard library is imported at the top: children that measure what each import costs come past here.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from seer_edge.envs import Environment

EXIT_FAULT, EXIT_BAD_INPUT = 1, 2


class BadInputError(Exception):
    """One line that names the flag, the value and the mend."""


class FaultError(Exception):
    """Something went wrong while measuring, so the figures mean nothing."""


class Parser(argparse.ArgumentParser):
    """Raises BadInputError where argparse would print its usage and exit; takes no abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise BadInputError(message.removeprefix("argument "))


def size(text: str) -> int:
    """Bytes of 0.07GB and the like."""
    from seer_runtime.system.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def count(text: str, least: int = 1) -> int:
    """A whole number from `least`."""
    if not (text.isascii() and text.isdigit() and least <= int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {2**32 - 1}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0."""
    return count(text, 0)


def out_file(text: str) -> Path:
    """Where a result goes: refused before anything is measured, where it could not be written then."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"cannot be written, {path.parent} is no folder"
        raise argparse.ArgumentTypeError(f"{text} {wrong}; name a file in a folder that is there")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written; name a file elsewhere")
    return path


def image_file(text: str) -> Path:
    """As `out_file`, with the name of an image that matplotlib draws."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = out_file(text)
    if path.suffix.removeprefix(".").lower() not in FigureCanvasBase.filetypes:
        raise argparse.ArgumentTypeError(f"{text} is no image; end its name in .png, .svg or .pdf")
    return path


def add_env_flags(parser: argparse.ArgumentParser) -> None:
    """Add --env and --seed."""
    parser.add_argument("--env", default="Alien", help="game, or module:EnvId (Alien)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of every random stream (0)")


def open_environment(flags: argparse.Namespace, resolution: int | None = None) -> "Environment":
    """The environment of --env with frames of that side, or its own. Raises BadInputError where there is none."""
    from seer_edge import errors
    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.envs.refusals import refusals

    options = EnvOptions(resolution=resolution)
    try:
        with refusals(flags.env, options):
            return make_env(flags.env, options, seed=flags.seed, training=True)
    except errors.BadInputError as error:
        raise BadInputError(str(error)) from error


def answer(prog: str, job: Callable[[], int]) -> int:
    """Exit status of `job`; its errors become one line on stderr."""
    try:
        return job()
    except BadInputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except FaultError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_FAULT


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(f"{text} ...", file=sys.stderr, flush=True)


def mb(size_bytes: float | None) -> str:
    """Megabytes to one decimal."""
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def render(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A table, its first column to the left."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in (header, *lines))
    )
