"""Checks of values that users give: types and ranges of dataclass fields, and files that a command will write."""

import math
import os
import stat
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from seer_edge.errors import BadInputError

NONE = "none"
"""How a preset file and `--set` write None, which TOML does not have."""


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a numeric field, used as `Annotated[int, Range(1, 256)]`."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # whether `least` itself is excluded

    def __contains__(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        if self.above:
            least = f"above {self.least:g}"
            return least if math.isinf(self.most) else f"{least} and at most {self.most:g}"
        return f"of at least {self.least:g}" if math.isinf(self.most) else f"from {self.least:g} to {self.most:g}"


COUNT = Range(1, 2**31 - 1)
STEPS = Range(0, 2**31 - 1)
FRACTION = Range(0, 1)
POSITIVE = Range(0, 1e9, above=True)


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


def check_types(instance: Any) -> None:
    """Raise ValueError for the first field of a dataclass whose value does not fit its annotation.

    An integer is accepted for a float. True and False are accepted for bool only. A field that is annotated with a
    `Range` must lie in it. The message starts with the name of the field.
    """
    for name, kind in get_type_hints(type(instance), include_extras=True).items():
        value = getattr(instance, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} cannot be {value!r}")
        outside = _range_missed(value, kind)
        if outside is not None:
            raise ValueError(f"{name} {value}: give {_number(kind)} {outside}")


def typed(value: Any, kind: Any) -> Any:
    """Return `value`, read from TOML or given in Python, as the annotation `kind` wants it.

    Integers become floats, lists become tuples, and "none" becomes None where the annotation allows them. Raises
    ValueError with what to give instead.
    """
    if _optional(kind) and value in (None, NONE):
        return None
    base = _base(kind)
    parts = get_args(base) if get_origin(base) is tuple else ()
    if parts and isinstance(value, list | tuple):
        value = tuple(
            typed(item, part) if _fits(item, part) else item for item, part in zip(value, parts, strict=False)
        ) + tuple(value[len(parts) :])
    if base is float and _fits(value, float):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not _fits(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"give {describe(kind)}")
    if _range_missed(value, kind) is not None:
        raise ValueError(f"give {describe(kind)}")
    return value


def describe(kind: Any) -> str:
    """Say in words which values an annotation accepts: "a whole number from 1 to 256, or none"."""
    base, limits = _base(kind), _range(kind)
    if get_origin(base) is tuple:
        text = f"{len(get_args(base))} numbers in brackets, for example [-1.0, 1.0]"
    elif base is bool:
        text = "true or false"
    else:
        text = _number(kind) if base in (int, float) else "text"
    return text + ("" if limits is None else f" {limits}") + (f", or {NONE}" if _optional(kind) else "")


def _number(kind: Any) -> str:
    return "a whole number" if _base(kind) is int else "a number"


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union; of any other annotation itself alone."""
    return get_args(kind) if get_origin(kind) in (types.UnionType, Union) else (kind,)


def _optional(kind: Any) -> bool:
    return types.NoneType in _options(kind)


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _base(kind: Any) -> Any:
    """The first type of an annotation that is not None, without its range."""
    return next(_plain(option) for option in _options(kind) if option is not types.NoneType)


def _range(kind: Any) -> Range | None:
    extras = (extra for option in _options(kind) if get_origin(option) is Annotated for extra in get_args(option)[1:])
    return next((extra for extra in extras if isinstance(extra, Range)), None)


def _range_missed(value: Any, kind: Any) -> Range | None:
    """The range of `kind` if `value` lies outside."""
    limits = _range(kind)
    return limits if limits is not None and value is not None and value not in limits else None


def _fits(value: Any, kind: Any) -> bool:
    kind = _plain(kind)
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
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)
