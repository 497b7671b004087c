"""SVCCA, linear CKA and attention maps against closed forms and naive computations."""

import math

import numpy as np
import pytest

from seer_edge.analysis.attention import attention_maps
from seer_edge.analysis.similarity import linear_cka, principal_components, svcca


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(19)


def layer(rng: np.random.Generator, rows: int = 3_000, neurons: int = 20) -> np.ndarray:
    """Correlated neurons with different scales and means far from 0, as after a ReLU."""
    values = rng.normal(size=(rows, neurons)) @ rng.normal(size=(neurons, neurons)) + 5
    return np.maximum(values, 0).astype(np.float32)


def naive_svcca(x: np.ndarray, y: np.ndarray, kept: float = 0.99) -> float:
    """The steps of Raghu et al. (2017): SVD of each matrix, then CCA of the projections by QR."""
    bases = []
    for matrix in (x.astype(np.float64), y.astype(np.float64)):
        u, s, _ = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
        count = next(n for n in range(1, len(s) + 1) if (s[:n] ** 2).sum() >= kept * (s**2).sum())
        bases.append(np.linalg.qr(u[:, :count] * s[:count])[0])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


def test_svcca_of_a_layer_with_itself_is_1(rng: np.random.Generator) -> None:
    x = layer(rng)
    assert svcca(x, x) == pytest.approx(1, abs=1e-9)


def test_svcca_of_an_invertible_linear_map_is_1_where_all_directions_are_kept(rng: np.random.Generator) -> None:
    x = layer(rng).astype(np.float64)
    mapped = x @ rng.normal(size=(20, 20)) + rng.normal(size=20)
    assert svcca(x, mapped, variance_kept=1.0) == pytest.approx(1, abs=1e-6)


def test_svcca_at_99_percent_of_an_orthogonal_map_and_a_scaling_is_1(rng: np.random.Generator) -> None:
    x = layer(rng).astype(np.float64)
    orthogonal = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    assert svcca(x, 7 * x @ orthogonal - 3) == pytest.approx(1, abs=1e-9)


def test_svcca_of_independent_noise_is_near_its_chance_level(rng: np.random.Generator) -> None:
    rows, neurons = 3_000, 30
    x, y = rng.normal(size=(2, rows, neurons))
    # The product of two random bases is nearly a Gaussian matrix of variance 1 / rows. The root mean square of its
    # singular values is sqrt(neurons / rows), and their mean 8 / (3 pi) of that, by the quarter-circle law.
    chance = 8 / (3 * math.pi) * math.sqrt(neurons / rows)
    assert svcca(x, y, variance_kept=1.0) == pytest.approx(chance, rel=0.1)
    assert 0.05 < svcca(x, y) < 0.12


@pytest.mark.parametrize("rows", [None, 15])
def test_svcca_is_that_of_singular_values_and_projections(rows: int | None, rng: np.random.Generator) -> None:
    """Also of layers with fewer rows than neurons, where noise alone is similar."""
    x = layer(rng)[:rows]
    y = np.maximum(x @ rng.normal(size=(20, 12)) + rng.normal(size=(len(x), 12)) * 4, 0)
    assert svcca(x, y) == pytest.approx(naive_svcca(x, y), abs=1e-6)
    assert 0.2 < svcca(x, y) < 0.98 + (rows is not None)


@pytest.mark.parametrize(("rows", "neurons"), [(300, 20), (12, 20)])
def test_principal_components_are_orthonormal_and_span_the_leading_projections(
    rows: int, neurons: int, rng: np.random.Generator
) -> None:
    x = layer(rng, rows, neurons)
    components = principal_components(x, 0.9)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0, dtype=np.float64), full_matrices=False)
    count = next(n for n in range(1, len(s) + 1) if (s[:n] ** 2).sum() >= 0.9 * (s**2).sum())
    assert components.shape == (rows, count)
    np.testing.assert_allclose(np.abs(components.T @ u[:, :count]), np.eye(count), atol=1e-6)


def test_svcca_ignores_neurons_that_are_dead(rng: np.random.Generator) -> None:
    x = layer(rng)
    dead = np.hstack([x, np.zeros((len(x), 5), np.float32)])
    assert svcca(x, dead, variance_kept=1.0) == pytest.approx(1, abs=1e-6)


def test_linear_cka_is_1_for_orthogonal_maps_and_isotropic_scaling(rng: np.random.Generator) -> None:
    x = layer(rng).astype(np.float64)
    orthogonal = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    assert linear_cka(x, x @ orthogonal) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, 0.01 * x + 9) == pytest.approx(1, abs=1e-9)


def test_linear_cka_of_a_small_case_is_the_value_by_hand() -> None:
    # Centered columns a = (1, -1, 0, 0), b = (0, 0, 2, -2) and c = (1, -1, 1, -1).
    # |X'Y|^2 = (a c)^2 + (b c)^2 = 4 + 16, |X'X| = sqrt(4 + 64), |Y'Y| = 4.
    x = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]], np.float64) + 10
    y = np.array([[1], [-1], [1], [-1]], np.float64)
    assert linear_cka(x, y) == pytest.approx(20 / (math.sqrt(68) * 4), abs=1e-12)


@pytest.mark.parametrize("rows", [8, 40, 400])
def test_linear_cka_is_the_same_in_the_space_of_rows_and_of_neurons(rng: np.random.Generator, rows: int) -> None:
    x, y = rng.normal(size=(rows, 40)) + 3, rng.normal(size=(rows, 25))
    y[:, :25] += x[:, :25]
    centering = np.eye(rows) - 1 / rows
    k, m = centering @ x @ x.T @ centering, centering @ y @ y.T @ centering
    expected = np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))  # HSIC, Kornblith et al. (2019)
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", [svcca, linear_cka])
@pytest.mark.parametrize("rows", [3, 300])
def test_constant_layers_are_similar_to_each_other_alone(rng: np.random.Generator, measure: object, rows: int) -> None:
    constant, varying = np.full((rows, 6), 0.1, np.float32), rng.normal(size=(rows, 6))
    assert callable(measure)
    assert measure(constant, constant * 3) == 1
    assert measure(constant, varying) == 0
    assert measure(varying, constant) == 0


@pytest.mark.parametrize("shapes", [((4, 2), (5, 2)), ((4,), (4,)), ((0, 2), (0, 2))])
def test_matrices_without_the_same_rows_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    first, second = map(np.ones, shapes)
    for measure in (svcca, linear_cka):
        with pytest.raises(ValueError, match="the same rows"):
            measure(first, second)


def test_an_attention_map_is_that_of_a_loop(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(2, 3, 4, 5)).astype(np.float32) * 30  # large values must not overflow
    attention = attention_maps(maps)
    for b in range(2):
        strength = [[sum(abs(float(maps[b, c, h, w])) for c in range(3)) / 3 for w in range(5)] for h in range(4)]
        total = sum(math.exp(value) for row in strength for value in row)
        for h in range(4):
            for w in range(5):
                assert attention[b, h, w] == pytest.approx(math.exp(strength[h][w]) / total, rel=1e-5)
    assert attention_maps(np.full((1, 1, 2, 2), 5_000.0)).tolist() == [[[0.25, 0.25], [0.25, 0.25]]]
