"""Quantiles of many durations in little memory."""

import numpy as np

BIN_SECONDS = 0.0001
BINS = 10_001
"""Durations of a second and more share the last bin."""


class Durations:
    """A histogram of durations with bins of 0.1 ms, and the longest one exactly."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.worst = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration. A negative one counts as 0."""
        self.counts[min(max(int(seconds / BIN_SECONDS), 0), BINS - 1)] += 1
        self.worst = max(self.worst, seconds)

    def merge(self, other: "Durations") -> None:
        """Add all durations of `other`."""
        self.counts += other.counts
        self.worst = max(self.worst, other.worst)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bin below which `share` of all durations are, at most `worst`; 0 if empty."""
        if not self.count:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), share * self.count))
        return min((index + 1) * BIN_SECONDS, self.worst) if index < BINS - 1 else self.worst

    def above(self, seconds: float) -> int:
        """Return how many are longer than `seconds`, by whole bins."""
        return int(self.counts[int(seconds / BIN_SECONDS) + 1 :].sum())
