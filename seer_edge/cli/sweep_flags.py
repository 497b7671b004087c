"""Flags of `sweep` and `reproduce`. Without a file, the flags of `train` behind `--` are the settings of every run."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from seer_edge.api.reproduction import reproduction_names
from seer_edge.api.sweeps import ENGINES, RAY_ADDRESS
from seer_edge.cli.flag_types import flag_type, named, place, positive
from seer_edge.cli.run_flags import add_output_flags, add_run_flags
from seer_edge.config.request import flag_of
from seer_edge.config.values import SHOWN_CHARACTERS, parse_integer
from seer_edge.errors import BadInputError

SEPARATOR = "--"
_NOT_SETTINGS = ("env", "seed", "run_dir", "quiet")
"""Flags of `train` that the sweep sets itself."""


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sweep`."""
    parser.usage = "seer-edge sweep (SPEC | --envs NAMES) [flags] [-- flags of train]"
    parser.add_argument("spec", nargs="?", type=place("a file"), metavar="SPEC", help="TOML file; see docs/sweeps.md.")
    parser.add_argument(
        "--envs",
        type=flag_type(_names),
        metavar="NAMES",
        help="Instead of SPEC: environments, such as Alien,Krull.",
    )
    _add_seeds_flag(parser, "With --envs: seeds, such as 0,1,2 or 0-4. Default: 0.")
    parser.add_argument(
        "-o",
        dest="output",
        type=place("a folder"),
        metavar="DIR",
        help="Folder of the sweep, new or of an earlier call. Default: SPEC without its suffix.",
    )
    _add_engine_flags(parser)


def add_reproduce_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `reproduce`."""
    parser.add_argument(
        "figure", type=named("a table or figure"), metavar="NAME", help=f"One of {', '.join(reproduction_names())}."
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=place("a folder"),
        metavar="DIR",
        help="Folder of the runs and of the page, new or of an earlier call. Default: runs/NAME.",
    )
    parser.add_argument(
        "--scale",
        type=flag_type(_scale),
        default=1.0,
        metavar="F",
        help="Factor of all steps, above 0 and at most 1. Default: 1.",
    )
    parser.add_argument(
        "--envs",
        type=flag_type(_names),
        metavar="NAMES",
        help="Only these environments, such as Alien,Krull, and the runs that they need. Default: all.",
    )
    _add_seeds_flag(parser, "Seeds, such as 0,1,2 or 0-4. Default: as many as in the paper.")
    _add_engine_flags(parser)
    parser.add_argument(
        "--print", action="store_true", help="Print the file of the sweep, to save and edit it, and exit."
    )


def _scale(text: str) -> float:
    """A number above 0, at most 1."""
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a scale; give a number above 0 and at most 1")
    return scale


def _add_seeds_flag(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--seeds", type=flag_type(_seeds), metavar="LIST", help=text)


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where runs train, and those of output."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        metavar="NAME",
        help=f"Where runs train: {', '.join(ENGINES)}. The nodes of a Ray cluster share DIR. Default: {ENGINES[0]}.",
    )
    parser.add_argument(
        "--ray-address",
        type=named("HOST:PORT"),
        default=RAY_ADDRESS,
        metavar="HOST:PORT",
        help=f"Head of the Ray cluster. Default: {RAY_ADDRESS}, the cluster of this machine.",
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="Runs at a time. Default: one for each core, as memory allows."
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Measure short runs, print the runs and their hours, and exit."
    )
    add_output_flags(parser)


def sweep_of(flags: argparse.Namespace) -> tuple[Path | dict[str, Any], Path]:
    """Return the file or the description of a sweep, and its folder. Raises BadInputError."""
    if flags.spec is not None:
        for flag, given in (("--envs", flags.envs), ("--seeds", flags.seeds), (SEPARATOR, flags.of_train)):
            if given:
                raise BadInputError(f"{flag}: cannot be given with a file; leave it out, or leave out {flags.spec}")
        return flags.spec, flags.spec.parent / flags.spec.stem if flags.output is None else flags.output
    if flags.envs is None:
        raise BadInputError("sweep: give a file, or --envs")
    if flags.output is None:
        raise BadInputError("-o: needed with --envs; name the folder of the sweep")
    return {"envs": flags.envs, "seeds": flags.seeds or [0], "settings": _settings(flags.of_train)}, flags.output


def _settings(words: list[str]) -> dict[str, Any]:
    """Return the options that flags of `train` set, by the names of the Python API."""
    parser = _TrainParser(allow_abbrev=False, add_help=False)
    add_run_flags(parser, env_required=False)
    given, unset = vars(parser.parse_args(words)), vars(parser.parse_args([]))
    changed = {name: value for name, value in given.items() if value != unset[name]}
    for name in _NOT_SETTINGS:
        if name in changed:
            raise BadInputError(f"{flag_of(name)} behind {SEPARATOR}: the sweep gives each run its own; leave it out")
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in changed.items()}
    return {**plain, **({"set": dict(plain["set"])} if "set" in plain else {})}


class _TrainParser(argparse.ArgumentParser):
    """Raises BadInputError for bad flags of `train`."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise BadInputError(f"flags of train behind {SEPARATOR}: {message.removeprefix('argument ')}")


def _names(text: str) -> list[str]:
    """Names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} has an empty name; name environments, such as Alien,Krull")
    return names


def _seeds(text: str) -> list[int]:
    """Whole numbers, and ranges of them with a dash."""
    seeds: list[int] = []
    for part in text.split(","):
        if part.strip().startswith("-"):
            raise ValueError(f"{part.strip()[:SHOWN_CHARACTERS]!r} is no seed; give whole numbers such as 0,1,2 or 0-4")
        first, dash, last = part.strip().partition("-")
        begin = parse_integer(first)
        end = parse_integer(last) if dash else begin
        if not 0 <= end - begin < 10_000:
            raise ValueError(f"{part!r} is not a range; give for example 0-4")
        seeds += range(begin, end + 1)
    return seeds
