"""Samplers choose the start rows of a batch: uniformly, or in proportion to priority (Schaul et al. 2016).

A sampler proposes rows. The replay rejects rows that cannot start a window and asks for more. The cost hardly depends
on the number of rows, and rejection does not change the proportions among valid rows.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.storage import Ids
from seer_runtime.replay.store import FINAL, RowStore
from seer_runtime.replay.sumtree import SumTree
from seer_runtime.system.ledger import Ledger

MIN_PRIORITY = 1e-6
"""Lower bound, so that a row with zero error can still be sampled (Schaul et al. 2016, Section 3.3)."""


class Sampler(Protocol):
    """Proposes start rows for a batch and gives their importance-sampling weights."""

    largest: float  # the largest priority so far, which new rows get

    def appended(self, row_id: int) -> None:
        """Register the row that was just appended to the store."""

    def forget(self) -> None:
        """Do not propose rows any more that the store gave up since the last call of this object."""

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """Return `count` row ids. Some may be unable to start a window."""

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """Return importance-sampling weights `[B]` in (0, 1]. `progress` is the elapsed fraction of the run."""

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Set the priorities `[B]` of the rows `ids` `[B]`. Ignore rows that were overwritten.

        Raises ValueError if a priority is negative or not finite.
        """

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """Return the stored priorities of the rows `ids` `[B]`, as `rebuild` accepts them."""

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """Restore the priorities `[B]` of the rows `ids` `[B]` after the store moved them to other slots."""


class UniformSampler:
    """Samples every row with the same probability."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self.largest = 1.0

    def appended(self, row_id: int) -> None:
        """Do nothing."""

    def forget(self) -> None:
        """Do nothing."""

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """Return `count` row ids, drawn with replacement."""
        return rng.integers(self._store.oldest, self._store.appended, count)

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """Return ones."""
        return np.ones(len(ids), np.float32)

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Do nothing."""

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """Return ones."""
        return np.ones(len(ids))

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """Do nothing."""


class PrioritizedSampler:
    """Samples rows in proportion to priority ** `exponent`. A new row gets the largest priority so far.

    The weights are (N P(i))^-beta, divided by the largest in the batch. Over the run, beta rises linearly from
    `beta_start` to 1 (Schaul et al. 2016, Section 3.4).
    """

    def __init__(self, store: RowStore, ledger: Ledger, *, exponent: float = 0.5, beta_start: float = 0.4) -> None:
        self._store = store
        self._ledger = ledger
        self._exponent = exponent
        self._beta_start = beta_start
        self.largest = 1.0
        self._oldest = store.oldest  # the oldest row whose priority is in the tree
        self._tree = SumTree(store.capacity, ledger)

    def appended(self, row_id: int) -> None:
        """Give the new row the largest priority so far, or 0 if it has no action."""
        slot = self._store.slot(row_id)
        has_action = not self._store.columns.flags[slot] & FINAL
        self._tree.set(np.array([slot]), self.largest if has_action else 0.0)
        self._forget_all_but(slot)

    def forget(self) -> None:
        """Set the priorities of the rows that the store gave up to 0."""
        self._forget_all_but(None)

    def _forget_all_but(self, used: int | None) -> None:
        """Forget given-up rows. The slot `used` already belongs to a new row."""
        if self._oldest == self._store.oldest:
            return
        slots = self._store.slots(np.arange(self._oldest, self._store.oldest))
        self._oldest = self._store.oldest
        slots = slots[slots != used]
        if len(slots):
            self._tree.set(slots, 0.0)

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """Return `count` row ids by stratified sampling: one from each of `count` equal parts of the total."""
        parts = (np.arange(count) + rng.random(count)) * (self._tree.total / count)
        slots = self._tree.find(parts)
        store = self._store
        return store.oldest + (slots - store.slot(store.oldest)) % store.capacity

    def weights(self, ids: Ids, progress: float) -> NDArray[np.float32]:
        """Return (N P(i))^-beta, divided by the largest in the batch. N and the total priority cancel."""
        priorities = self._tree.get(self._store.slots(ids))
        beta = self._beta_start + (1.0 - self._beta_start) * min(max(progress, 0.0), 1.0)
        weights: NDArray[np.float64] = (priorities / priorities.min()) ** -beta
        return weights.astype(np.float32)

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Set the priorities of the rows that the store still holds. Raises ValueError (see `Sampler`)."""
        held = self._store.holds(ids)
        if not held.any():
            return
        if not (np.isfinite(priorities).all() and (priorities >= 0).all()):
            raise ValueError(f"priorities must be finite and not negative, got {priorities}")
        powers = np.maximum(priorities[held].astype(np.float64), MIN_PRIORITY) ** self._exponent
        self.largest = max(self.largest, float(powers.max()))
        self._tree.set(self._store.slots(ids[held]), powers)

    def priorities(self, ids: Ids) -> NDArray[np.float64]:
        """Return the values in the tree for the rows `ids`: priority ** `exponent`."""
        return self._tree.get(self._store.slots(ids))

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """Build a new tree for the current layout of the store, with `priorities` for the rows `ids`."""
        self._tree.release()
        self._tree = SumTree(self._store.capacity, self._ledger)
        self._oldest = self._store.oldest
        self._tree.set(self._store.slots(ids), priorities)
