"""A sum tree over slots: set priorities and find the slot at a prefix sum, both in O(log capacity), vectorized."""

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.ledger import Ledger, Line


def _depth(capacity: int) -> int:
    return max(capacity - 1, 1).bit_length()


def tree_bytes(capacity: int) -> int:
    """Bytes of a tree for `capacity` slots."""
    return (2 << _depth(capacity)) * np.dtype(np.float64).itemsize


class SumTree:
    """A complete binary tree in one float64 array; node i has the children 2i and 2i + 1.

    A parent is always recomputed as the sum of its children, so the total never drifts.
    """

    def __init__(self, capacity: int, ledger: Ledger) -> None:
        self._depth = _depth(capacity)
        self._leaves = 1 << self._depth
        self._ledger = ledger
        self.nodes: NDArray[np.float64] = ledger.allocate(Line.PRIORITIES, 2 * self._leaves, np.float64)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self.nodes[1])

    def get(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Priorities at `slots`."""
        return self.nodes[self._leaves + slots]

    def set(self, slots: NDArray[np.int64], priorities: NDArray[np.float64] | float) -> None:
        """Set the priorities at `slots` `[B]`; of a slot named twice, the last counts."""
        nodes = self._leaves + slots
        self.nodes[nodes] = priorities
        for _ in range(self._depth):
            nodes = nodes >> 1
            left = 2 * nodes
            self.nodes[nodes] = self.nodes[left] + self.nodes[left + 1]

    def find(self, prefix_sums: NDArray[np.float64]) -> NDArray[np.int64]:
        """The slots in whose span `prefix_sums` `[B]`, each in [0, total), fall. Never a slot of priority 0."""
        nodes = np.ones(len(prefix_sums), np.int64)
        remaining = prefix_sums.astype(np.float64)
        for _ in range(self._depth):
            left = 2 * nodes
            left_sum = self.nodes[left]
            # Rounding may push a remainder past the last positive leaf: an empty right side is never entered.
            right = (remaining >= left_sum) & (self.nodes[left + 1] > 0)
            remaining -= np.where(right, left_sum, 0.0)
            nodes = left + right
        return nodes - self._leaves

    def release(self) -> None:
        """Give the tree's bytes back to the ledger."""
        self._ledger.release(Line.PRIORITIES, self.nodes)
