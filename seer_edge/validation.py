"""Checks of values that users give: types of dataclass fields, and files that a command will write."""

import dataclasses
import difflib
import math
import os
import stat
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seer_edge.errors import BadInputError

NONE = "none"
"""How a preset file and `--set` write None, which TOML does not have."""


def check_target(flag: str, path: Path) -> None:
    """Raise BadInputError unless a new file may be renamed to `path`.

    A rename would replace a device by a plain file, and a link by the file instead of writing what it points to.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInputError(f"{flag} {path}: cannot be written ({error.strerror}); name another file") from error
    if stat.S_ISLNK(mode):
        raise BadInputError(f"{flag} {path}: is a symbolic link; name the file itself")
    if not stat.S_ISREG(mode):
        raise BadInputError(f"{flag} {path}: is there already, and is not a regular file; name another")


def path_of(what: str, path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path. Raises BadInputError for an empty one, which pathlib takes for the current folder."""
    if not os.fspath(path).strip():
        raise BadInputError(f"{what} {os.fspath(path)!r}: is empty; name a file or a folder")
    return Path(path)


def check_types(instance: Any) -> None:
    """Raise ValueError for the first field of a dataclass whose value does not fit its annotation.

    An integer is accepted for a float. True and False are accepted for bool only. The message begins with the name of
    the field.
    """
    kinds = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value, kind = getattr(instance, field.name), kinds[field.name]
        if not _fits(value, kind):
            raise ValueError(f"{field.name} cannot be {value!r}; give {describe(kind)}")


def typed(value: Any, kind: Any) -> Any:
    """Return `value`, read from TOML or given in Python, as the annotation `kind` wants it.

    Integers become floats, lists become tuples, and "none" becomes None where the annotation allows them. Raises
    ValueError with what to give instead.
    """
    if _optional(kind) and value in (None, NONE):
        return None
    base = _base(kind)
    if get_origin(base) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(base)):
        try:
            return tuple(map(typed, value, get_args(base)))
        except ValueError as error:
            raise ValueError(f"give {describe(kind)}") from error
    if base is float and _fits(value, float):
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    too_long = isinstance(value, int) and abs(value) >= 10**18
    if not _fits(value, base) or too_long or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"give {describe(kind)}")
    return value


def describe(kind: Any) -> str:
    """Say in words which values an annotation accepts: "a whole number, or none"."""
    words = [_described(option) for option in _options(kind) if option is not types.NoneType]
    return ", or ".join([*dict.fromkeys(words), *([NONE] if _optional(kind) else [])])


def _described(kind: Any) -> str:
    names = {int: "a whole number of up to 18 digits", float: "a number", bool: "true or false", dict: "a table"}
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return "a list" if Ellipsis in parts else f"{len(parts)} numbers in brackets, for example [-1.0, 1.0]"
    return names.get(get_origin(kind) or kind, "text")


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which names are close to an unknown one, or all if none is."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"choose one of {', '.join(names)}"


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union; of any other annotation itself alone."""
    return get_args(kind) if get_origin(kind) in (types.UnionType, Union) else (kind,)


def _optional(kind: Any) -> bool:
    return types.NoneType in _options(kind)


def _base(kind: Any) -> Any:
    """The first type of an annotation that is not None."""
    return next(option for option in _options(kind) if option is not types.NoneType)


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (types.UnionType, Union):
        return any(_fits(value, option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(key, get_args(kind)[0]) for key in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)
