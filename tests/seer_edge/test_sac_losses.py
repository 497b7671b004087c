"""The losses of SAC and CURL against loops in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.agents.sac_losses import actor_loss, contrastive_loss, critic_loss, critic_targets, temperature_loss
from seer_edge.networks.sac_heads import Bilinear

B = 9
Array = NDArray[np.float64]


@pytest.fixture(params=range(4))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def tensors(*arrays: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(array).float() for array in arrays]


def test_critic_targets(rng: np.random.Generator) -> None:
    returns, log_probabilities = rng.standard_normal((2, B))
    discounts = 0.99 ** rng.integers(1, 5, B) * rng.integers(0, 2, B)
    qs, temperature = rng.standard_normal((2, B)) * 3, float(rng.uniform(0, 1))
    expected = [
        returns[i] + discounts[i] * (min(qs[0][i], qs[1][i]) - temperature * log_probabilities[i]) for i in range(B)
    ]
    got = critic_targets(*tensors(returns, discounts, qs, log_probabilities), torch.tensor(temperature))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_terminated_row_is_not_bootstrapped() -> None:
    returns, zeros = torch.tensor([1.5, -2.0]), torch.zeros(2)
    got = critic_targets(returns, zeros, torch.full((2, 2), 1e6), torch.full((2,), -1e6), torch.tensor(0.1))
    assert torch.equal(got, returns)


def test_critic_loss_and_priorities(rng: np.random.Generator) -> None:
    qs, targets, weights = rng.standard_normal((2, B)), rng.standard_normal(B), rng.uniform(0.1, 1, B)
    total, priorities = 0.0, []
    for i in range(B):
        first, second = qs[0][i] - targets[i], qs[1][i] - targets[i]
        total += weights[i] * (first**2 + second**2) / B
        priorities.append((abs(first) + abs(second)) / 2)
    loss, got = critic_loss(*tensors(qs, targets, weights))
    assert float(loss) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(got.numpy(), priorities, rtol=1e-5)


def test_critic_loss_with_equal_weights_is_the_sum_of_two_mean_squared_errors(rng: np.random.Generator) -> None:
    qs, targets = tensors(rng.standard_normal((2, B)), rng.standard_normal(B))
    expected = sum(torch.nn.functional.mse_loss(q, targets) for q in qs)
    torch.testing.assert_close(critic_loss(qs, targets, torch.ones(B))[0], expected)


def test_actor_loss(rng: np.random.Generator) -> None:
    log_probabilities, qs, temperature = rng.standard_normal(B), rng.standard_normal((2, B)), 0.3
    expected = sum(temperature * log_probabilities[i] - min(qs[0][i], qs[1][i]) for i in range(B)) / B
    got = actor_loss(*tensors(log_probabilities, qs), torch.tensor(temperature))
    assert float(got) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_temperature_loss(rng: np.random.Generator) -> None:
    log_probabilities, log_temperature = rng.standard_normal(B), -1.2
    expected = sum(math.exp(log_temperature) * (-p - -3.0) for p in log_probabilities) / B
    (p,) = tensors(log_probabilities)
    assert float(temperature_loss(torch.tensor(log_temperature), p, -3.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("entropy", "rises"), [(-4.0, True), (-2.0, False)])
def test_the_temperature_rises_where_the_entropy_is_below_its_target(entropy: float, rises: bool) -> None:
    log_temperature = torch.tensor(0.0, requires_grad=True)
    temperature_loss(log_temperature, torch.full((B,), -entropy), -3.0).backward()
    assert log_temperature.grad is not None
    assert (float(log_temperature.grad) < 0) == rises


def naive_logits(anchors: Array, weight: Array, positives: Array) -> Array:
    logits = np.zeros((len(anchors), len(positives)))
    for i, anchor in enumerate(anchors):
        for j, positive in enumerate(positives):
            logits[i, j] = sum(
                anchor[k] * weight[k, m] * positive[m] for k in range(len(anchor)) for m in range(len(positive))
            )
        logits[i] -= max(logits[i])
    return logits


def naive_info_nce(logits: Array) -> float:
    losses = [-math.log(math.exp(row[i]) / sum(map(math.exp, row))) for i, row in enumerate(logits)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_contrastive_logits_and_loss(rng: np.random.Generator, scale: float) -> None:
    features = 4
    bilinear = Bilinear(features, torch.Generator().manual_seed(int(rng.integers(1000))))
    anchors, positives = rng.standard_normal((2, B, features)) * scale
    expected = naive_logits(anchors, bilinear.weight.detach().double().numpy(), positives)
    logits = bilinear(*tensors(anchors, positives)).detach()
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert logits.amax(dim=1).tolist() == [0.0] * B
    assert float(contrastive_loss(logits)) == pytest.approx(naive_info_nce(expected), rel=1e-4)


def test_the_positive_of_an_anchor_is_on_the_diagonal() -> None:
    matching = torch.full((3, 3), -50.0).fill_diagonal_(0.0)
    assert float(contrastive_loss(matching)) == pytest.approx(0.0, abs=1e-6)
    assert float(contrastive_loss(matching.roll(1, dims=1))) == pytest.approx(50.0, rel=1e-6)


def test_the_row_maximum_changes_no_gradient(rng: np.random.Generator) -> None:
    anchors, positives = tensors(*rng.standard_normal((2, B, 4)))
    anchors.requires_grad_()
    bilinear = Bilinear(4, torch.Generator().manual_seed(0))
    got = torch.autograd.grad(contrastive_loss(bilinear(anchors, positives)), [anchors, bilinear.weight])
    plain = torch.nn.functional.cross_entropy(anchors @ bilinear.weight @ positives.T, torch.arange(B))
    torch.testing.assert_close(got, torch.autograd.grad(plain, [anchors, bilinear.weight]), rtol=1e-4, atol=1e-6)
