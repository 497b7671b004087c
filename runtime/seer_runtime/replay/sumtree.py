"""A sum tree over the priorities of slots. Updates and searches are vectorized and take O(log capacity) each."""

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.ledger import Ledger, Line


def _depth(capacity: int) -> int:
    return max(capacity - 1, 1).bit_length()


def tree_bytes(capacity: int) -> int:
    """Return the size in bytes of a tree for `capacity` slots."""
    return (2 << _depth(capacity)) * np.dtype(np.float64).itemsize


class SumTree:
    """A complete binary tree in one float64 array. Node i has the children 2i and 2i + 1.

    An update recomputes each parent as the sum of its children, so rounding errors do not accumulate.
    """

    def __init__(self, capacity: int, ledger: Ledger) -> None:
        self._depth = _depth(capacity)
        self._leaves = 1 << self._depth
        self._ledger = ledger
        self.nodes: NDArray[np.float64] = ledger.allocate(Line.PRIORITIES, 2 * self._leaves, np.float64)

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self.nodes[1])

    def get(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the priorities at `slots` `[B]`, float64 `[B]`."""
        return self.nodes[self._leaves + slots]

    def set(self, slots: NDArray[np.int64], priorities: NDArray[np.float64] | float) -> None:
        """Set the priorities at `slots` `[B]`. If a slot occurs twice, its last priority counts."""
        nodes = self._leaves + slots
        self.nodes[nodes] = priorities
        for _ in range(self._depth):
            nodes = nodes >> 1
            left = 2 * nodes
            self.nodes[nodes] = self.nodes[left] + self.nodes[left + 1]

    def find(self, prefix_sums: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the slots `[B]` at `prefix_sums` `[B]`, each in [0, total).

        Each slot covers the prefix sums from the sum of all earlier priorities up to that sum plus its own priority. A
        slot of priority 0 is never returned.
        """
        nodes = np.ones(len(prefix_sums), np.int64)
        remaining = prefix_sums.astype(np.float64)
        for _ in range(self._depth):
            left = 2 * nodes
            left_sum = self.nodes[left]
            # Rounding may make `remaining` too large for the last positive leaf. Never descend into an empty subtree.
            right = (remaining >= left_sum) & (self.nodes[left + 1] > 0)
            remaining -= np.where(right, left_sum, 0.0)
            nodes = left + right
        return nodes - self._leaves

    def release(self) -> None:
        """Release the memory of the tree from the ledger."""
        self._ledger.release(Line.PRIORITIES, self.nodes)
