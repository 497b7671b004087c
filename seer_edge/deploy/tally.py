"""Which actions a policy took, in the environment's own numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ActionTally:
    """Counts integers, and keeps the least, mean and largest value of each element of arrays."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._range: tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]] | None = None
        self._steps = 0

    def add(self, action: Any) -> None:
        """Count one action: an integer, or an array of floats."""
        self._steps += 1
        if isinstance(action, int):
            self._counts[action] = self._counts.get(action, 0) + 1
            return
        low, high, total = self._range or (action, action, np.zeros(action.shape))
        self._range = (np.minimum(low, action), np.maximum(high, action), total + action)

    def to_json(self) -> dict[str, Any]:
        """Return how often each integer was taken, by its text, or `low`, `mean` and `high` of the arrays."""
        if self._range is None:
            return {str(action): self._counts[action] for action in sorted(self._counts)}
        low, high, total = self._range
        return {"low": low.tolist(), "mean": (total / self._steps).tolist(), "high": high.tolist()}
