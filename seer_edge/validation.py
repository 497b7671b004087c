"""Types of configuration fields, for values that come from a file; and files that a user names to be written."""

import os
import stat
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seer_edge.errors import BadInputError


def check_target(flag: str, path: Path) -> None:
    """Raise BadInputError where what stands at `path` is not a file that a new one may take the place of.

    A rename would put a plain file in the place of a device, and of a link instead of what it names.
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


def check_types(instance: Any) -> None:
    """Raise ValueError for the first field of a dataclass whose value is not of its annotated type.

    A whole number passes for a float, True and False pass for bool alone.
    """
    for name, kind in get_type_hints(type(instance)).items():
        value = getattr(instance, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} cannot be {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (types.UnionType, Union):
        return any(_fits(value, option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)
