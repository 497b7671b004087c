"""Similarity of two representations of the same inputs: SVCCA (Raghu et al. 2017) and linear CKA (Kornblith et al. 2019).

A representation is a matrix `[rows, neurons]`. The two matrices have the same rows, which are inputs, or inputs and
positions for a convolution. All sums are float64.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

VARIANCE_KEPT = 0.99
"""Share of the variance that the directions which SVCCA compares explain, as in Raghu et al. (2017)."""


@dataclass
class JointMoments:
    """Sums over the rows of two representations, from which both measures follow. Rows may come in pieces.

    The first row is the origin, because sums of squares far from the data lose precision.

    Attributes:
        rows: number of rows so far.
        origins: float64 `[neurons]`, subtracted from all rows; one of each representation.
        sums: float64 `[neurons]` of each representation.
        products: float64 `[neurons, neurons]`: first with first, second with second, first with second.

    """

    rows: int
    origins: tuple[NDArray[np.float64], NDArray[np.float64]]
    sums: tuple[NDArray[np.float64], NDArray[np.float64]]
    products: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, first: NDArray[Any], second: NDArray[Any]) -> Self:
        """Return the moments of two representations, float `[rows, N]` and `[rows, M]`. Raises ValueError."""
        _check(first, second)
        origins = first[0].astype(np.float64), second[0].astype(np.float64)
        sizes = first.shape[1], second.shape[1]
        empty = cls(
            0,
            origins,
            (np.zeros(sizes[0]), np.zeros(sizes[1])),
            (np.zeros((sizes[0], sizes[0])), np.zeros((sizes[1], sizes[1])), np.zeros(sizes)),
        )
        empty.add(first, second)
        return empty

    def add(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Add rows of both representations, float `[rows, N]` and `[rows, M]`. Raises ValueError."""
        _check(first, second)
        x, y = first - self.origins[0], second - self.origins[1]
        self.rows += len(x)
        for total, more in zip(self.sums, (x.sum(axis=0), y.sum(axis=0)), strict=True):
            total += more
        for total, more in zip(self.products, (x.T @ x, y.T @ y, x.T @ y), strict=True):
            total += more

    def centered(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the products after the means were subtracted: `rows` times the covariances."""
        x, y = self.sums
        xx, yy, xy = self.products
        return (
            xx - np.outer(x, x) / self.rows,
            yy - np.outer(y, y) / self.rows,
            xy - np.outer(x, y) / self.rows,
        )

    def svcca(self, variance_kept: float = VARIANCE_KEPT) -> float:
        """Return the SVCCA similarity, 0 to 1; see `svcca`."""
        xx, yy, xy = self.centered()
        first, second = _whitening(xx, variance_kept), _whitening(yy, variance_kept)
        if first is None or second is None:
            return float(first is second)
        correlations = np.linalg.svd(first.T @ xy @ second, compute_uv=False)
        return float(np.clip(correlations, 0.0, 1.0).mean())

    def linear_cka(self) -> float:
        """Return the linear CKA, 0 to 1; see `linear_cka`."""
        xx, yy, xy = self.centered()
        return _ratio(float(np.square(xy).sum()), float(np.linalg.norm(xx)), float(np.linalg.norm(yy)))


def svcca(first: NDArray[Any], second: NDArray[Any], variance_kept: float = VARIANCE_KEPT) -> float:
    """Return the mean canonical correlation of two representations `[rows, N]` and `[rows, M]`, 0 to 1.

    Each representation is reduced first to the leading principal directions that explain `variance_kept` of its
    variance. The mean is over as many correlations as the smaller one has directions. Two constant representations
    have similarity 1, a constant and another one 0. Independent noise has a similarity above 0, which falls with
    the number of rows for each neuron. Raises ValueError for arrays that are not two matrices with the same rows.
    """
    return JointMoments.of(first, second).svcca(variance_kept)


def linear_cka(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the linear centered kernel alignment of two representations `[rows, N]` and `[rows, M]`, 0 to 1.

    It does not change under orthogonal maps and isotropic scaling of either. Two constant representations have
    similarity 1, a constant and another one 0. The cost is that of three products of the matrices, in the space of the
    neurons or of the rows, whichever is smaller. Raises ValueError for arrays that are not two matrices with the same
    rows.
    """
    _check(first, second)
    rows = len(first)
    if rows > max(first.shape[1], second.shape[1]):
        return JointMoments.of(first, second).linear_cka()
    grams = [_gram(matrix) for matrix in (first, second)]
    return _ratio(float(np.vdot(*grams)), *(float(np.linalg.norm(gram)) for gram in grams))


def _gram(matrix: NDArray[Any]) -> NDArray[np.float64]:
    moved = matrix - matrix[0].astype(np.float64)  # exactly 0 for a constant representation, unlike with the mean alone
    centered = moved - moved.mean(axis=0)
    gram: NDArray[np.float64] = centered @ centered.T
    return gram


def _ratio(alignment: float, first: float, second: float) -> float:
    """Return the normalized alignment, from the norms of both. A norm of 0 is that of a constant representation."""
    if not first or not second:
        return float(first == second)
    return min(alignment / first / second, 1.0)


def _whitening(products: NDArray[np.float64], variance_kept: float) -> NDArray[np.float64] | None:
    """Return the leading directions `[neurons, directions]`, scaled to unit length in the data; None if all is constant.

    They are the fewest principal directions that explain `variance_kept` of the variance.
    """
    values, directions = np.linalg.eigh(products)
    values, directions = values[::-1], directions[:, ::-1]
    # Rounding leaves tiny values, of either sign, where the rank is lower. They are no directions of the data.
    values = np.where(values > values[0] * len(values) * np.finfo(np.float64).eps, values, 0.0)
    total = values.sum()
    if total <= 0:
        return None
    explained = np.cumsum(values) / total
    kept = min(int(np.searchsorted(explained, variance_kept)) + 1, np.count_nonzero(values))
    whitening: NDArray[np.float64] = directions[:, :kept] / np.sqrt(values[:kept])
    return whitening


def _check(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or not len(first):
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"representations are matrices [rows, neurons] with the same rows, not of shapes {shapes}")
