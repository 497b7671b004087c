"""Which rows a batch starts from: uniform, or in proportion to priority (Schaul et al. 2016).

A sampler proposes rows; the replay rejects those that cannot start a window and asks for more. Both cost the same
at any number of rows, and rejection leaves the proportions among valid rows as they are.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.store import FINAL, Ids, RowStore
from seer_runtime.replay.sumtree import SumTree
from seer_runtime.system.ledger import Ledger

LEAST_PRIORITY = 1e-6
"""Keeps a row that was learned to perfection from never being drawn again (Schaul et al. 2016, Section 3.3)."""


class Sampler(Protocol):
    """Proposes row ids and weighs them."""

    largest: float  # the largest priority seen, which new rows get

    def appended(self, row_id: int) -> None:
        """A row was written."""

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """`count` row ids, some of which may not be able to start a window."""

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """Importance-sampling weights `[B]` in (0, 1]; `progress` is the fraction of the run that is over."""

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """New priorities for the rows `ids`; those overwritten meanwhile are dropped.

        Raises ValueError for one that is negative or not finite.
        """

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """What a rebuild needs to know of the rows `ids` `[B]`."""

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """The store was laid out anew: the rows `ids` stand in other slots, with the same priorities."""


class UniformSampler:
    """Every row with the same probability."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self.largest = 1.0

    def appended(self, row_id: int) -> None:
        """Nothing to keep."""

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """Row ids drawn with replacement."""
        return rng.integers(self._store.oldest, self._store.appended, count)

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """All one."""
        return np.ones(len(ids), np.float32)

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Nothing to keep."""

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """All one."""
        return np.ones(len(ids))

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """Nothing to keep."""


class PrioritizedSampler:
    """Rows in proportion to priority ** `exponent`; a new row gets the largest priority seen so far.

    The weights are (N P(i))^-beta over their largest value in the batch, beta annealed from `beta_start` to 1 over
    the run (Schaul et al. 2016, Section 3.4).
    """

    def __init__(self, store: RowStore, ledger: Ledger, *, exponent: float = 0.5, beta_start: float = 0.4) -> None:
        self._store = store
        self._ledger = ledger
        self._exponent = exponent
        self._beta_start = beta_start
        self.largest = 1.0
        self._tree = SumTree(store.capacity, ledger)

    def appended(self, row_id: int) -> None:
        """Give the row the largest priority seen, or none where it holds no action."""
        slot = self._store.slot(row_id)
        holds_action = not self._store.columns.flags[slot] & FINAL
        self._tree.set(np.array([slot]), self.largest if holds_action else 0.0)

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """Row ids by stratified draws: one in each of `count` equal parts of the total."""
        parts = (np.arange(count) + rng.random(count)) * (self._tree.total / count)
        slots = self._tree.find(parts)
        store = self._store
        return store.oldest + (slots - store.slot(store.oldest)) % store.capacity

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """(N P(i))^-beta over the batch's largest; N and the total cancel."""
        priorities = self._tree.get(self._store.slots(ids))
        beta = self._beta_start + (1.0 - self._beta_start) * min(max(progress, 0.0), 1.0)
        weights: NDArray[np.float64] = (priorities / priorities.min()) ** -beta
        return weights.astype(np.float32)

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Set the priorities of the rows that are still held. Raises ValueError (see `Sampler`)."""
        held = self._store.holds(ids)
        if not held.any():
            return
        if not (np.isfinite(priorities).all() and (priorities >= 0).all()):
            raise ValueError(f"priorities must be finite and not negative, got {priorities}")
        powers = np.maximum(priorities[held].astype(np.float64), LEAST_PRIORITY) ** self._exponent
        self.largest = max(self.largest, float(powers.max()))
        self._tree.set(self._store.slots(ids[held]), powers)

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """What the tree holds for `ids`."""
        return self._tree.get(self._store.slots(ids))

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """A new tree for the store's present layout, holding `priorities` for `ids`."""
        self._tree.release()
        self._tree = SumTree(self._store.capacity, self._ledger)
        self._tree.set(self._store.slots(ids), priorities)
