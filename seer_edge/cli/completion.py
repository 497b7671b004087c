"""Scripts that complete commands and flags in a shell, written by shtab from the parser."""

import argparse
from collections.abc import Iterator

import shtab

from seer_edge.api.reproduction import reproduction_names
from seer_edge.cli.flags import make_parser
from seer_edge.config.presets import PRESETS

FOLDERS = ("RUN", "DIR")
FILES = ("FILE", "BUNDLE", "RUN|BUNDLE", "SPEC", "SRC")


def script(shell: str) -> str:
    """Return the completion script for `shell`: bash, zsh or fish."""
    parser = make_parser()
    presets = tuple(dict.fromkeys(preset.name for preset in PRESETS.values()))
    names = {"preset": presets, "name": presets, "figure": tuple(reproduction_names())}
    for action in _actions(parser):
        if action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest in names:
            action.choices = names[action.dest]
    return shtab.complete(parser, shell).rstrip()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every action of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
