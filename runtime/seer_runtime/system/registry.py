"""Registries: dictionaries to which programs and plugins add entries under a name."""

import re
from typing import TypeVar

T = TypeVar("T")


def add_entry(entries: dict[str, T], kind: str, name: str, entry: T) -> None:
    """Add `entry` to `entries` under `name`. `kind` is what messages call it, such as "encoder".

    Raises ValueError for a name in use, or that has other characters than lower-case letters, digits, - and _.
    """
    if not isinstance(name, str) or re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is None:
        raise ValueError(f"{kind} {name!r}: use lower-case letters, digits, - and _ for its name")
    if name in entries:
        raise ValueError(f"{kind} {name!r}: there is one of this name already; choose another name")
    entries[name] = entry
