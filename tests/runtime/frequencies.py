"""A chi-square test of observed frequencies."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def assert_frequencies(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Assert that chi-square is below its 99.9 % quantile, by the approximation of Wilson and Hilferty."""
    expected: NDArray[Any] = counts.sum() * probabilities
    assert expected.min() > 5
    if len(counts) == 1:
        return
    degrees = len(counts) - 1
    quantile = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < quantile
