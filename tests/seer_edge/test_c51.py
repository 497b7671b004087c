"""The projection of C51 against Algorithm 1 of Bellemare et al. (2017), written line by line from the paper."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seer_edge.agents.c51 import project

LOW, HIGH, ATOMS = -10.0, 10.0, 51


def _algorithm_1(
    probabilities: NDArray[np.float64], n_return: float, discount: float, support: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One row, atom by atom; a shifted atom that falls on an atom gives it all its mass."""
    low, high = support[0], support[-1]
    spacing = (high - low) / (len(support) - 1)
    projected = np.zeros(len(support))
    for j, probability in enumerate(probabilities):
        shifted = min(max(n_return + discount * support[j], low), high)
        b = (shifted - low) / spacing
        lower, upper = min(math.floor(b), len(support) - 1), min(math.ceil(b), len(support) - 1)
        if lower == upper:
            projected[lower] += probability
        else:
            projected[lower] += probability * (upper - b)
            projected[upper] += probability * (b - lower)
    return projected


def _project(
    probabilities: NDArray[np.float64], returns: list[float], discounts: list[float], support: NDArray[np.float64]
) -> NDArray[np.float64]:
    def tensor(values: object) -> torch.Tensor:
        return torch.tensor(np.array(values), dtype=torch.float32)

    return project(tensor(probabilities), tensor(returns), tensor(discounts), tensor(support)).double().numpy()


def _distributions(seed: int, batch: int, atoms: int) -> NDArray[np.float64]:
    """Anything from flat to all mass on one atom."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, atoms)) * rng.choice([0.0, 1.0, 20.0], (batch, 1))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.lists(
        st.tuples(
            st.one_of(st.floats(-25, 25, width=32), st.integers(-30, 30).map(lambda k: k * 0.4)),
            st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1, width=32), st.integers(0, 20).map(lambda n: 0.99**n)),
        ),
        min_size=1,
        max_size=6,
    ),
    atoms=st.sampled_from([2, 11, 51]),
    limits=st.sampled_from([(LOW, HIGH), (0.0, 1.0), (-3.0, 7.0)]),
)
def test_projection_is_algorithm_1(
    seed: int, rows: list[tuple[float, float]], atoms: int, limits: tuple[float, float]
) -> None:
    support = np.linspace(*limits, atoms)
    probabilities = _distributions(seed, len(rows), atoms)
    returns, discounts = [row[0] for row in rows], [row[1] for row in rows]
    got = _project(probabilities, returns, discounts, support)
    wanted = [_algorithm_1(*row, support) for row in zip(probabilities, returns, discounts, strict=True)]
    np.testing.assert_allclose(got, wanted, atol=5e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=5e-5)
    assert (got >= 0).all()


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), discount=st.floats(0, 1), position=st.floats(0, 1))
def test_the_mean_is_kept_where_nothing_is_clamped(seed: int, discount: float, position: float) -> None:
    support = np.linspace(LOW, HIGH, ATOMS)
    slack = HIGH * (1 - discount)  # returns in [-slack, slack] keep every shifted atom inside
    n_return = slack * (2 * position - 1)
    probabilities = _distributions(seed, 1, ATOMS)
    got = _project(probabilities, [n_return], [discount], support)
    assert (got @ support)[0] == pytest.approx(n_return + discount * (probabilities @ support)[0], abs=1e-3)


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 7])
def test_atoms_that_fall_on_atoms_move_whole(shift: int) -> None:
    """Spacing 1: a return of k moves every probability k places; probabilities beyond the support stay at its end."""
    support = np.linspace(-5, 5, 11)
    probabilities = _distributions(4, 1, 11)
    wanted = np.zeros(11)
    for j, probability in enumerate(probabilities[0]):
        wanted[min(max(j + shift, 0), 10)] += probability
    np.testing.assert_allclose(_project(probabilities, [float(shift)], [1.0], support)[0], wanted, atol=1e-7)


@pytest.mark.parametrize(("n_return", "discount"), [(10.0, 0.0), (10.1, 0.0), (15.0, 0.5), (1e4, 1.0)])
@pytest.mark.parametrize(("sign", "end"), [(1, -1), (-1, 0)])
def test_everything_beyond_an_end_is_on_that_end(n_return: float, discount: float, sign: int, end: int) -> None:
    support = np.linspace(LOW, HIGH, ATOMS)
    got = _project(_distributions(1, 1, ATOMS), [sign * n_return], [discount], support)[0]
    wanted = np.zeros(ATOMS)
    wanted[end] = 1
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_terminal_row_is_its_return_for_any_prediction() -> None:
    support = np.linspace(LOW, HIGH, ATOMS)
    got = _project(_distributions(2, 3, ATOMS), [0.1, 0.1, 0.1], [0.0, 0.0, 0.0], support)
    wanted = np.zeros(ATOMS)
    wanted[25], wanted[26] = 0.75, 0.25  # atoms 0.0 and 0.4
    np.testing.assert_allclose(got, [wanted] * 3, atol=1e-6)
