"""The heads of CURL + SAC against numpy, the policy's density against numerical integration."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from seer_edge.networks.sac_heads import ActorHead, Bilinear, CriticHead, Perceptron, tanh_gaussian
from seer_edge.networks.sac_spec import SacHeadSpec

SPEC = SacHeadSpec(features=5, hidden=7, actions=3)
LOG_STD = (-10.0, 2.0)
Array = NDArray[np.float64]


def heads(spec: SacHeadSpec = SPEC, seed: int = 0) -> tuple[ActorHead, CriticHead, Bilinear]:
    generator = torch.Generator().manual_seed(seed)
    return ActorHead(spec, LOG_STD, generator), CriticHead(spec, generator), Bilinear(spec.features, generator)


def shaken(module: torch.nn.Module, seed: int = 1) -> None:
    """Biases and layer norms start as constants: give them values that show a wrong use."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPEC, SacHeadSpec(50, 64, 6), SacHeadSpec(2, 1, 1)])
def test_the_spec_counts_the_parameters_of_the_modules(spec: SacHeadSpec) -> None:
    counts = [sum(p.numel() for p in module.parameters()) for module in heads(spec)]
    assert counts == [spec.actor_parameters, spec.target_parameters, spec.contrastive_parameters]
    assert spec.parameters == counts[0] + counts[1] + 1
    assert spec.norm_parameters == sum(p.numel() for p in heads(spec)[0].norm.parameters())


def test_the_spec_counts_the_multiply_adds_that_torch_counts() -> None:
    actor, critic, _ = heads()
    batch = 4
    latents, actions = torch.randn(batch, SPEC.features), torch.randn(batch, SPEC.actions)

    def operations(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*inputs)
        return counter.get_total_flops()

    assert operations(actor, latents) == 2 * batch * SPEC.actor_multiply_adds
    assert operations(critic, latents, actions) == 2 * batch * 2 * SPEC.q_multiply_adds


def test_the_spec_of_the_paper() -> None:
    spec = SacHeadSpec(features=50, hidden=1024, actions=6)
    assert spec.actor_multiply_adds == 50 * 1024 + 1024 * 1024 + 1024 * 12 == 1_112_064
    assert spec.q_multiply_adds == 56 * 1024 + 1024 * 1024 + 1024 == 1_106_944


# --- initial weights ---------------------------------------------------------------------------------------


def test_linear_weights_start_orthogonal_biases_at_zero_and_norms_as_the_identity() -> None:
    actor, critic, bilinear = heads()
    for perceptron in (actor.policy, *critic.qs):
        assert isinstance(perceptron, Perceptron)
        for layer in perceptron.layers:
            rows, columns = layer.weight.shape
            narrow = layer.weight if rows <= columns else layer.weight.T
            torch.testing.assert_close(narrow @ narrow.T, torch.eye(min(rows, columns)), rtol=0, atol=1e-5)
            assert not layer.bias.any()
    for norm in (actor.norm, critic.norm):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
    assert ((bilinear.weight >= 0) & (bilinear.weight < 1)).all()
    assert not torch.equal(critic.qs[0].layers[0].weight, critic.qs[1].layers[0].weight)


def test_equal_seeds_give_equal_heads_and_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        [p for module in heads(seed=seed) for name, p in module.named_parameters() if name.endswith("weight")]
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, same))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True) if a.dim() == 2)


# --- forward passes ----------------------------------------------------------------------------------------


def naive_norm(norm: torch.nn.LayerNorm, latent: Array) -> Array:
    weight, bias = (p.detach().double().numpy() for p in (norm.weight, norm.bias))
    mean = sum(latent) / len(latent)
    variance = sum((x - mean) ** 2 for x in latent) / len(latent)
    return np.array(
        [(x - mean) / math.sqrt(variance + 1e-5) * w + b for x, w, b in zip(latent, weight, bias, strict=True)]
    )


def naive_perceptron(perceptron: Perceptron, values: Array) -> Array:
    for index, layer in enumerate(perceptron.layers):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        values = np.array(
            [sum(w * x for w, x in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        )
        if index < 2:
            values = np.array([max(x, 0.0) for x in values])
    return values


def test_actor_and_critic_against_numpy() -> None:
    actor, critic, _ = heads()
    shaken(actor)
    shaken(critic)
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(4, SPEC.features, generator=generator) * 3
    actions = torch.rand(4, SPEC.actions, generator=generator) * 2 - 1
    with torch.no_grad():
        mean, log_std = actor(latents)
        qs = critic(latents, actions)
    assert qs.shape == (2, 4)
    for row in range(4):
        latent = latents[row].double().numpy()
        policy = naive_perceptron(actor.policy, naive_norm(actor.norm, latent))
        np.testing.assert_allclose(mean[row].numpy(), policy[:3], rtol=1e-5, atol=1e-5)
        squashed = [-10 + 12 * (math.tanh(x) + 1) / 2 for x in policy[3:]]
        np.testing.assert_allclose(log_std[row].numpy(), squashed, rtol=1e-5, atol=1e-5)
        inputs = np.concatenate([naive_norm(critic.norm, latent), actions[row].double().numpy()])
        for which in range(2):
            expected = naive_perceptron(critic.qs[which], inputs)[0]
            assert float(qs[which, row]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_log_standard_deviation_stays_in_its_range() -> None:
    actor = heads()[0]
    with torch.no_grad():
        actor.policy.layers[-1].bias[SPEC.actions :] = torch.tensor([-1e3, 0.0, 1e3])
        actor.policy.layers[-1].weight.zero_()
    _, log_std = actor(torch.randn(2, SPEC.features))
    assert log_std.tolist() == [[-10.0, -4.0, 2.0]] * 2


# --- the policy's density ----------------------------------------------------------------------------------

POLICIES = [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.5), (0.4, -3.0), (0.0, 1.0)]


def density(actions: Array, mean: float, log_std: float) -> Array:
    """exp of the log-probability of scalar actions, by way of the noise that gives them."""
    noise = (np.arctanh(actions) - mean) / math.exp(log_std)
    columns = [torch.from_numpy(np.broadcast_to(x, actions.shape).copy())[:, None] for x in (mean, log_std, noise)]
    back, log_probabilities = tanh_gaussian(*columns)
    np.testing.assert_allclose(back[:, 0].numpy(), actions, rtol=0, atol=1e-12)
    return np.exp(log_probabilities.numpy())


def probability(upto: float, mean: float, log_std: float) -> float:
    """The density summed over cells of (-1, `upto`), which are the finer the nearer they are to -1 and 1."""
    edges = np.tanh(np.linspace(-16, math.atanh(upto), 200_001))
    cells = (edges[1:] + edges[:-1]) / 2
    return float((density(cells, mean, log_std) * np.diff(edges)).sum())


@pytest.mark.parametrize(("mean", "log_std"), POLICIES)
def test_the_density_over_actions_integrates_to_one(mean: float, log_std: float) -> None:
    assert probability(math.tanh(16), mean, log_std) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("mean", "log_std"), POLICIES)
@pytest.mark.parametrize("upto", [-0.9, -0.2, 0.5, 0.95])
def test_the_probability_of_an_interval_is_the_gaussians(mean: float, log_std: float, upto: float) -> None:
    z = (math.atanh(upto) - mean) / math.exp(log_std)
    expected = (1 + math.erf(z / math.sqrt(2))) / 2
    assert probability(upto, mean, log_std) == pytest.approx(expected, abs=1e-5)


def test_the_dimensions_of_an_action_are_independent() -> None:
    mean, log_std, noise = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actions, together = tanh_gaussian(mean, log_std, noise)
    apart = [tanh_gaussian(mean[:, [i]], log_std[:, [i]], noise[:, [i]]) for i in range(4)]
    assert torch.equal(actions, torch.cat([action for action, _ in apart], dim=1))
    torch.testing.assert_close(together, sum(log_probability for _, log_probability in apart))


@pytest.mark.parametrize("u", [-40.0, -12.0, 0.0, 9.0, 40.0])
def test_the_log_probability_is_exact_where_the_action_rounds_to_one(u: float) -> None:
    mean = torch.tensor([[u]], requires_grad=True)
    action, log_probability = tanh_gaussian(mean, torch.zeros(1, 1), torch.zeros(1, 1))
    log_cosh = abs(u) - math.log(2) + math.log1p(math.exp(-2 * abs(u)))
    assert abs(float(action.detach())) <= 1
    assert float(log_probability.detach()) == pytest.approx(-0.5 * math.log(2 * math.pi) + 2 * log_cosh, rel=1e-6)
    (gradient,) = torch.autograd.grad(log_probability.sum(), mean)
    assert float(gradient) == pytest.approx(2 * math.tanh(u), rel=1e-6, abs=1e-7)
