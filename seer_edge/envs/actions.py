"""Action spaces of an agent: numbered actions, or a vector of controls in [-1, 1]."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.units import counted

Action = int | NDArray[np.float32]
"""An int from 0 to `count` - 1, or float32 `[size]` with each control in [-1, 1]."""


@dataclass(frozen=True)
class Discrete:
    """The discrete actions 0 to `count` - 1."""

    count: int
    kind: ClassVar[str] = "discrete"

    @property
    def outputs(self) -> int:
        """Number of values that a head gives for them: one for each action."""
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: `()`, a scalar."""
        return ()

    @property
    def dtype(self) -> np.dtype[np.int32]:
        """Dtype of a replay's column of actions."""
        return np.dtype(np.int32)

    def sample(self, rng: np.random.Generator) -> int:
        """Draw an action uniformly."""
        return int(rng.integers(self.count))

    def holds(self, column: NDArray[Any]) -> bool:
        """Return whether all actions of `column`, int32 `[T]`, are in this space."""
        return bool(((column >= 0) & (column < self.count)).all())

    def __str__(self) -> str:
        return counted(self.count, "action")


@dataclass(frozen=True)
class Continuous:
    """Vectors of `size` controls, each in [-1, 1]."""

    size: int
    kind: ClassVar[str] = "continuous"

    @property
    def outputs(self) -> int:
        """Number of values that a head gives for them: one for each control."""
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: `(size,)`."""
        return (self.size,)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Dtype of a replay's column of actions."""
        return np.dtype(np.float32)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw an action uniformly, float32 `[size]`."""
        return rng.uniform(-1.0, 1.0, self.size).astype(np.float32)

    def holds(self, column: NDArray[Any]) -> bool:
        """Return whether all actions of `column`, float32 `[T, size]`, are in this space."""
        return bool(((column >= -1) & (column <= 1)).all())

    def __str__(self) -> str:
        return counted(self.size, "continuous action")


Actions = Discrete | Continuous
