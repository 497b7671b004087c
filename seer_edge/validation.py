"""Types of configuration fields, for values that come from a file."""

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


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
