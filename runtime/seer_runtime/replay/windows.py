"""n-step windows over a row store, for any n.

A window starts at a row, follows its episode for at most n steps and ends at a terminated step, at a truncated
step (whose value is bootstrapped from the episode's final row) or at the row n steps on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.store import FINAL, TERMINATED, TRUNCATED, Ids, RowStore


@dataclass(frozen=True)
class Windows:
    """What a head needs of B windows; entries where `valid` is False mean nothing."""

    valid: NDArray[np.bool_]  # [B]
    returns: NDArray[np.float32]  # [B], sum of gamma^k r_{t+k} over the window's m steps
    discounts: NDArray[np.float32]  # [B], gamma^m, or 0 where the window ends in a terminal state
    bootstrap_ids: Ids  # [B], the row whose value the window bootstraps; the start itself where terminal

    def only(self, chosen: NDArray[np.bool_]) -> "Windows":
        """Those that are `chosen` `[B]`."""
        return Windows(*(array[chosen] for array in vars(self).values()))

    @staticmethod
    def joined(parts: "Sequence[Windows]") -> "Windows":
        """Those of all `parts`, one after the other."""
        return Windows(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def n_step_windows(store: RowStore, starts: Ids, n: int, gamma: float, spare_rows: int = 0) -> Windows:
    """The windows that begin at the rows `starts` `[B]`.

    A start is invalid where its row was overwritten or holds no action, where its stack is not whole or will not be
    once `spare_rows` more rows are appended, and where its window runs into the write head before it has n steps or an
    end.
    """
    steps = starts[:, None] + np.arange(n)  # [B, n]
    written = steps < store.appended
    slots = store.slots(steps)
    flags = store.columns.flags[slots]
    ends = (flags & (TERMINATED | TRUNCATED)).astype(bool) & written
    has_end = ends.any(axis=1)
    last = np.where(has_end, ends.argmax(axis=1), n - 1)  # index of the window's last step

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
