"""Similarity of two representations: SVCCA (Raghu et al. 2017) and linear CKA (Kornblith et al. 2019).

A representation is a matrix `[rows, neurons]`. The two matrices have the same rows, which are inputs, or inputs and
positions for a convolution. All sums are float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIANCE_KEPT = 0.99
"""Share of the variance that the directions which SVCCA compares explain, as in Raghu et al. (2017)."""

Floats = NDArray[np.float64]


def svcca(first: NDArray[Any], second: NDArray[Any], variance_kept: float = VARIANCE_KEPT) -> float:
    """Return the mean canonical correlation of two representations `[rows, N]` and `[rows, M]`, 0 to 1.

    Each representation is reduced first to the leading principal directions that explain `variance_kept` of its
    variance. The mean is over as many correlations as the smaller one has directions. Two constant representations
    have similarity 1, a constant and another one 0. Independent noise has a similarity above 0, which falls with
    the number of rows for each neuron. Raises ValueError for arrays that are not two matrices with the same rows.
    """
    _check_rows(first, second)
    return mean_correlation(principal_components(first, variance_kept), principal_components(second, variance_kept))


def principal_components(outputs: NDArray[Any], variance_kept: float = VARIANCE_KEPT) -> Floats:
    """Return the leading principal components `[rows, components]` of a representation, each of length 1.

    They are the fewest that explain `variance_kept` of the variance, and none if all neurons are constant. The cost is
    that of the eigenvectors of a matrix as large as the neurons or the rows, whichever are fewer.
    """
    x = _centered(outputs)
    wide = x.shape[0] < x.shape[1]
    values, directions = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, directions = values[::-1], directions[:, ::-1]
    # Rounding leaves tiny values, of either sign, where the rank is lower. They are no directions of the data.
    values = np.where(values > values[0] * len(values) * np.finfo(np.float64).eps, values, 0.0)
    total = values.sum()
    if total <= 0:
        return np.zeros((len(x), 0))
    kept = min(int(np.searchsorted(np.cumsum(values) / total, variance_kept)) + 1, np.count_nonzero(values))
    leading = directions[:, :kept]
    components: Floats = leading if wide else x @ (leading / np.sqrt(values[:kept]))
    return components


def mean_correlation(first: Floats, second: Floats) -> float:
    """Return the mean canonical correlation of the `principal_components` of two representations; see `svcca`."""
    if not first.shape[1] or not second.shape[1]:
        return float(first.shape[1] == second.shape[1])
    return float(np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0).mean())


def linear_cka(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the linear centered kernel alignment of two representations `[rows, N]` and `[rows, M]`, 0 to 1.

    It does not change under orthogonal maps and isotropic scaling of either. Two constant representations have
    similarity 1, a constant and another one 0. The cost is that of three products of the matrices, in the space of the
    neurons or of the rows, whichever is smaller. Raises ValueError for arrays that are not two matrices with the same
    rows.
    """
    _check_rows(first, second)
    x, y = _centered(first), _centered(second)
    if len(x) > max(x.shape[1], y.shape[1]):
        alignment, own, other = np.square(x.T @ y).sum(), x.T @ x, y.T @ y
    else:
        own, other = x @ x.T, y @ y.T
        alignment = np.vdot(own, other)
    norms = float(np.linalg.norm(own)), float(np.linalg.norm(other))
    if 0.0 in norms:  # a constant representation
        return float(norms[0] == norms[1])
    return min(float(alignment) / norms[0] / norms[1], 1.0)


def _check_rows(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or not len(first):
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"representations are matrices [rows, neurons] with the same rows, not of shapes {shapes}")


def _centered(outputs: NDArray[Any]) -> Floats:
    # Without the first subtraction, the mean of equal values may differ from them in the last bit.
    moved: Floats = outputs - outputs[0].astype(np.float64)
    moved -= moved.mean(axis=0)
    return moved
