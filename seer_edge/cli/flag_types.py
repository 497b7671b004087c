"""Types of flags: each turns the text of a flag into its value, or refuses it in one line."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from seer_edge.config.config import MAX_THREADS
from seer_edge.config.hyperparameters import is_preset_file
from seer_edge.config.presets import PRESETS
from seer_edge.config.values import (
    SHOWN_CHARACTERS,
    parse_flops,
    parse_integer,
    parse_memory,
    parse_positive,
    parse_seconds,
)
from seer_runtime.policy.preprocess import GRAY_LEVELS

Value = TypeVar("Value")


def flag_type(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Turn a function that raises ValueError into a type of argparse that keeps the message."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def within(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        value = parse_integer(text)
        if not least <= value <= most:
            raise ValueError(f"{text} is out of range; give a whole number from {least} to {most}")
        return value

    return flag_type(parse)


integer, positive = flag_type(parse_integer), flag_type(parse_positive)
flops = flag_type(parse_flops)
size, seconds = flag_type(parse_memory), flag_type(parse_seconds)
seed = within(0, 2**32 - 1)
threads = within(1, MAX_THREADS)


def named(what: str) -> Callable[[str], str]:
    """Text that is not empty."""

    def parse(text: str) -> str:
        if not text.strip():
            raise ValueError(f"{text!r} is empty; name {what}")
        return text

    return flag_type(parse)


def place(what: str) -> Callable[[str], Path]:
    """A path. An empty one is refused, because it would mean the working directory."""
    name = named(what)
    return lambda text: Path(name(text))


@flag_type
def fraction(text: str) -> float:
    """A number from 0 to 1."""
    if re.fullmatch(r"[01]|[01]?\.\d{1,18}", text, re.ASCII) is None or float(text) > 1:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a fraction; give a number from 0 to 1")
    return float(text)


@flag_type
def output_file(text: str) -> Path:
    """The path of a file to write."""
    if not text or text.endswith("/"):
        raise ValueError(f"{text!r} is not a file; name one")
    if text == "-":
        raise ValueError("'-': writing to standard output is not possible; name a file")
    return Path(text)


@flag_type
def switch(text: str) -> bool:
    """Return on or off as a truth value."""
    if text not in ("on", "off"):
        raise ValueError(f"unknown value {text!r}; choose one of on, off")
    return text == "on"


@flag_type
def gray_levels(text: str) -> int:
    """One of GRAY_LEVELS."""
    choices = list(map(str, GRAY_LEVELS))
    if text not in choices:
        raise ValueError(f"unknown value {text[:SHOWN_CHARACTERS]!r}; choose one of {', '.join(choices)}")
    return int(text)


@flag_type
def preset(text: str) -> str:
    """The name of a preset in any case, or the path of a file."""
    if is_preset_file(text):
        return text
    names = {preset.name.lower(): preset.name for preset in PRESETS.values()}
    if text.lower() not in names:
        choices = ", ".join(names.values())
        raise ValueError(f"unknown value {text!r}; choose one of {choices}, or give a file that ends with .toml")
    return names[text.lower()]
