"""n-step windows over a row store, for any n.

A window starts at a row and spans at most n steps of its episode. It ends early at a terminated or truncated step. The
value after a truncated step is bootstrapped from the final row of the episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.storage import Ids
from seer_runtime.replay.store import FINAL, TERMINATED, TRUNCATED, RowStore


@dataclass(frozen=True)
class Windows:
    """Returns, discounts and bootstrap rows of B windows. Entries where `valid` is False have no meaning."""

    valid: NDArray[np.bool_]  # [B]
    returns: NDArray[np.float32]  # [B], sum of gamma^k r_{t+k} over the m steps of the window
    discounts: NDArray[np.float32]  # [B], gamma^m, or 0 if the window ends in a terminal state
    bootstrap_ids: Ids  # [B], the row to bootstrap from, or the start row if the window ends in a terminal state

    def select(self, mask: NDArray[np.bool_]) -> "Windows":
        """Return the windows where `mask` `[B]` is True."""
        return Windows(*(array[mask] for array in vars(self).values()))

    @staticmethod
    def concatenate(parts: "Sequence[Windows]") -> "Windows":
        """Return the windows of all `parts` in order."""
        return Windows(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def n_step_windows(store: RowStore, starts: Ids, n: int, gamma: float, spare_rows: int = 0) -> Windows:
    """Return the windows that start at the rows `starts` `[B]`.

    A start is invalid in four cases: its row was overwritten; its row has no action; its stack is incomplete, or would
    be after `spare_rows` more rows are appended; the newest row comes before n steps or the end of the episode.
    """
    steps = starts[:, None] + np.arange(n)  # [B, n]
    written = steps < store.appended
    slots = store.slots(steps)
    flags = store.columns.flags[slots]
    ends = (flags & (TERMINATED | TRUNCATED)).astype(bool) & written
    has_end = ends.any(axis=1)
    last = np.where(has_end, ends.argmax(axis=1), n - 1)  # index of the last step in the window

    rows = np.arange(len(starts))
    terminated = has_end & (flags[rows, last] & TERMINATED).astype(bool)
    bootstrap_ids = np.where(terminated, starts, starts + last + 1)
    valid = store.holds(starts) & (bootstrap_ids < store.appended)
    valid &= ~(flags[:, 0] & FINAL).astype(bool)
    valid &= store.stack_is_whole(starts, spare_rows)

    discount = np.power(gamma, np.arange(n + 1))
    inside = np.arange(n) <= last[:, None]
    returns = (store.columns.reward[slots] * np.where(inside, discount[:n], 0.0)).sum(axis=1)
    discounts = np.where(terminated, 0.0, discount[last + 1])
    return Windows(valid, returns.astype(np.float32), discounts.astype(np.float32), bootstrap_ids)
