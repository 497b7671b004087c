"""The environment's own actions, and how those of an agent become them. Training and acting share this code.

An agent chooses an index from 0, or controls in [-1, 1]. An environment may number its actions from another integer, or
bound its controls otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.manifest_reader import ManifestReader

DTYPES = ("float16", "float32", "float64")
START_MAX = 2**62
NUMBER_MAX = 1e300
"""Limit on a bound, so that the range of a control is finite."""


@dataclass(frozen=True)
class Numbered:
    """Consecutive integers from `start`. Raises ValueError for a `start` beyond 2**62."""

    start: int

    def __post_init__(self) -> None:
        if abs(self.start) > START_MAX:
            raise ValueError(f"the first action is {self.start}, not from {-START_MAX} to {START_MAX}")

    @property
    def plain(self) -> bool:
        """Whether they equal the agent's."""
        return self.start == 0

    def own(self, action: Any) -> int:
        """Return the environment's action for the index `action` from 0."""
        return self.start + int(action)

    def of_agent(self, own: Any) -> int:
        """Return the index of the environment's action `own`. Raises ValueError where it is not a whole number."""
        number = np.asarray(own)
        if number.size != 1 or number.dtype.kind not in "iu":
            raise ValueError("not a whole number")
        return int(number.item()) - self.start

    def to_json(self) -> dict[str, Any]:
        """Return the entries of a manifest that `of` reads."""
        return {"start": self.start}

    def __str__(self) -> str:
        return f"numbered from {self.start}"


@dataclass(frozen=True)
class Bounded:
    """Arrays of `shape` and `dtype`, whose elements are from `low` to `high`, both in C order. Raises ValueError."""

    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not len(self.low) == len(self.high) == math.prod(self.shape):
            raise ValueError(
                f"bounds of {self.dtype} {list(self.shape)}: expected one of {', '.join(DTYPES)} and a low and a high "
                f"for each element, got {len(self.low)} and {len(self.high)}"
            )
        if not all(-NUMBER_MAX <= low <= high <= NUMBER_MAX for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("a bound is not finite, or a low is above its high")

    @property
    def plain(self) -> bool:
        """Whether they equal the agent's."""
        size = (len(self.low),)
        return (self.shape, self.dtype, self.low, self.high) == (size, "float32", size[0] * (-1.0,), size[0] * (1.0,))

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return tuple(np.asarray(bound, self.dtype).reshape(self.shape) for bound in (self.low, self.high))  # type: ignore[return-value]

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return middle_and_half_range(self.low, self.high)

    def own(self, action: Any) -> NDArray[Any]:
        """Return the environment's action for controls `[A]` in [-1, 1]: a new array of `shape` and `dtype`."""
        middle, half_range = self._scale
        controls = (middle + half_range * np.asarray(action, np.float64)).reshape(self.shape)
        # Rounding may lead beyond a bound.
        return np.asarray(np.clip(controls.astype(self.dtype), *self._bounds))

    def of_agent(self, own: Any) -> NDArray[np.float32]:
        """Return the controls `[A]` in [-1, 1] of the environment's action `own`, which is clipped to its bounds.

        A control whose bounds are equal is 0. Raises ValueError for another shape and for numbers that are not finite.
        """
        action = np.asarray(own, np.float64)
        if action.shape != self.shape or not np.isfinite(action).all():
            raise ValueError(f"expected finite numbers of shape {list(self.shape)}")
        middle, half_range = self._scale
        controls = (action.ravel() - middle) / np.where(half_range > 0, half_range, 1)
        return np.clip(controls, -1, 1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the entries of a manifest that `of` reads."""
        return {"own": {"shape": list(self.shape), "dtype": self.dtype, "low": list(self.low), "high": list(self.high)}}

    def __str__(self) -> str:
        pairs = [f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True)]
        more = ["…"] if len(pairs) > 4 else []
        return f"in {' x '.join([*pairs[:4], *more])}"


OwnActions = Numbered | Bounded


def middle_and_half_range(low: Any, high: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `middle` and `half_range`, both float64 `[A]`.

    `middle + half_range * control` maps a control in [-1, 1] to the bounds `low` and `high`.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return (high + low) / 2, (high - low) / 2


def read_own_actions(actions: Mapping[str, Any], size: int) -> OwnActions | None:
    """Read what `to_json` wrote into the record `actions` of a manifest; None where the actions are the agent's.

    `size` is the number of controls. Raises ValueError that names the invalid field.
    """
    fields = ManifestReader({"actions": actions})
    if "start" in actions:
        start = fields.value("actions.start")
        if type(start) is not int:
            raise ValueError(f"actions.start is {start!r}, not an integer")
        return Numbered(start)
    if "own" not in actions:
        return None
    fields.record("actions.own", ("shape", "dtype", "low", "high"))
    return Bounded(
        shape=fields.counts("actions.own.shape", size),
        dtype=fields.choice("actions.own.dtype", DTYPES),
        low=fields.numbers("actions.own.low", size),
        high=fields.numbers("actions.own.high", size),
    )
