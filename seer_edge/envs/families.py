"""Environment families that users add: `--env FAMILY/NAME`.

Atari games, control tasks and Gymnasium environments are built in. A Gymnasium environment needs no family:
`--env module:EnvId` finds it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """The environments of one family and the function that builds them.

    Attributes:
        names: the names of its environments.
        make: called as `make(name, options, seed=…, training=…)` with an `EnvOptions`. Returns an `Environment` whose
            spec has the id "FAMILY/NAME". Raises EnvError for what it cannot build.

    """

    names: tuple[str, ...]
    make: Callable[..., Any]


FAMILIES: dict[str, Family] = {}
"""Every added family by the part of `--env` before the slash."""


def register_family(family: str, names: Sequence[str], make: Callable[..., Any]) -> None:
    """Add the environments "FAMILY/NAME" for all `names` (see `Family`). Raises ValueError for unusable names."""
    for name in (family, *names):
        if not name or set(name) & set("/:") or name != name.strip():
            raise ValueError(f"environment family {family!r}: cannot use the name {name!r}; leave out / : and spaces")
    if family.lower() in ("ale", "dm_control"):
        raise ValueError(f"environment family {family!r}: is built in; choose another name")
    if family in FAMILIES:
        raise ValueError(f"environment family {family!r}: there is one of this name already; choose another name")
    FAMILIES[family] = Family(tuple(names), make)
