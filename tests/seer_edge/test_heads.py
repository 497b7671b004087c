"""Rainbow's head against slow loops, the papers' initialisation, and its own specification."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from seer_edge.networks.heads import NoisyLinear, RainbowHead, head_backward, head_trace, noisy_q_values, q_values
from seer_edge.networks.spec import RainbowHeadSpec


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def _layer(inputs: int, outputs: int, streams: int = 1, seed: int = 0) -> NoisyLinear:
    layer = NoisyLinear(inputs, outputs, _generator(seed), streams=streams, sigma=0.5)
    layer.draw_noise(_generator(seed + 1))
    return layer


# --- NoisyLinear -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_noisy_weights_are_mu_plus_sigma_times_the_outer_product(streams: int) -> None:
    inputs, outputs = 5, 4
    layer = _layer(inputs, outputs, streams)
    weight, bias = layer.noisy()
    mu, sigma = _array(layer.weight), _array(layer.weight_sigma)
    mu_b, sigma_b = _array(layer.bias), _array(layer.bias_sigma)
    noise_in, noise_out = _array(layer.noise_in), _array(layer.noise_out)
    for stream in range(streams):
        for output in range(outputs):
            row, eps_out = stream * outputs + output, noise_out[stream, output, 0]
            assert bias[row].item() == pytest.approx(mu_b[row] + sigma_b[row] * eps_out, abs=1e-6)
            for column in range(inputs):
                wanted = mu[row, column] + sigma[row, column] * eps_out * noise_in[stream, 0, column]
                assert weight[row, column].item() == pytest.approx(wanted, abs=1e-6)


def test_streams_are_separate_layers_side_by_side() -> None:
    inputs, outputs, streams = 6, 3, 2
    together = _layer(inputs, outputs, streams)
    x = torch.randn(7, inputs, generator=_generator(9))
    got = torch.nn.functional.linear(x, *together.noisy())
    for stream in range(streams):
        alone, rows = _layer(inputs, outputs, seed=50 + stream), slice(stream * outputs, (stream + 1) * outputs)
        with torch.no_grad():
            for name in ("weight", "bias", "weight_sigma", "bias_sigma"):
                getattr(alone, name).copy_(getattr(together, name)[rows])
            alone.noise_in.copy_(together.noise_in[stream : stream + 1])
            alone.noise_out.copy_(together.noise_out[stream : stream + 1])
        torch.testing.assert_close(got[:, rows], torch.nn.functional.linear(x, *alone.noisy()))


def test_streams_have_noise_of_their_own() -> None:
    layer = _layer(4_000, 4_000, streams=2)
    parts = [*_array(layer.noise_in)[:, 0], *_array(layer.noise_out)[:, :, 0]]
    correlations = np.corrcoef(parts) - np.eye(4)
    assert np.abs(correlations).max() < 0.06  # four standard errors


def test_noise_is_the_signed_root_of_standard_normals() -> None:
    layer = _layer(100_000, 1)
    noise = _array(layer.noise_in).ravel()
    normals = np.sort(noise * np.abs(noise))  # the inverse of f(x) = sign(x) sqrt(|x|)
    assert normals.mean() == pytest.approx(0, abs=0.013)
    assert normals.std() == pytest.approx(1, abs=0.01)
    for quantile, wanted in ((0.025, -1.96), (0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745), (0.975, 1.96)):
        assert normals[int(quantile * len(normals))] == pytest.approx(wanted, abs=0.03)
    assert noise.var() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)


def test_each_draw_is_new_and_follows_its_generator() -> None:
    layer, generator = _layer(8, 8), _generator(3)
    layer.draw_noise(generator)
    first = [layer.noise_in.clone(), layer.noise_out.clone()]
    layer.draw_noise(generator)
    assert not torch.equal(layer.noise_in, first[0])
    assert not torch.equal(layer.noise_out, first[1])
    layer.draw_noise(_generator(3))
    assert torch.equal(layer.noise_in, first[0])
    assert torch.equal(layer.noise_out, first[1])


@pytest.mark.parametrize(("inputs", "outputs", "streams", "sigma"), [(576, 256, 2, 0.1), (256, 51, 1, 0.5)])
def test_initialisation_is_that_of_fortunato(inputs: int, outputs: int, streams: int, sigma: float) -> None:
    layer = NoisyLinear(inputs, outputs, _generator(), streams=streams, sigma=sigma)
    bound = 1 / math.sqrt(inputs)
    for mu in (layer.weight, layer.bias):
        assert mu.abs().max() <= bound
    assert layer.weight.min() < -0.99 * bound
    assert layer.weight.max() > 0.99 * bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert layer.weight_sigma.unique().tolist() == [pytest.approx(sigma / math.sqrt(inputs))]
    assert layer.bias_sigma.unique().tolist() == [pytest.approx(sigma / math.sqrt(outputs))]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_layers_gradients_are_those_of_autograd(streams: int) -> None:
    layer = _layer(5, 3, streams)
    layer.noisy()
    x, slopes = torch.randn(4, 5, generator=_generator(6)), torch.randn(4, 3 * streams, generator=_generator(5))
    for _ in range(2):  # a second pass takes the place of the first
        layer.backward(x, slopes)
    _assert_gradients(layer, (_differentiable(layer, x) * slopes).sum())


def _differentiable(layer: NoisyLinear, x: torch.Tensor) -> torch.Tensor:
    """A pass under the present noise that autograd can follow."""
    weight = layer.weight + layer.weight_sigma * (layer.noise_out * layer.noise_in).view_as(layer.weight)
    return torch.nn.functional.linear(x, weight, layer.bias + layer.bias_sigma * layer.noise_out.flatten())


def _assert_gradients(module: torch.nn.Module, loss: torch.Tensor) -> None:
    """Each parameter's `grad` is autograd's of `loss`, and not zero."""
    parameters = dict(module.named_parameters())
    wanted = torch.autograd.grad(loss, parameters.values(), retain_graph=True)
    for (name, parameter), gradient in zip(parameters.items(), wanted, strict=True):
        assert parameter.grad is not None, name
        assert gradient.count_nonzero() > 0, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_mean_weights_ignore_noise() -> None:
    layer = _layer(5, 3)
    before = [tensor.clone() for tensor in layer.mean()]
    layer.draw_noise(_generator(77))
    assert all(torch.equal(*pair) for pair in zip(layer.mean(), before, strict=True))
    assert torch.equal(layer.mean()[0], layer.weight)
    assert not torch.equal(layer.noisy()[0], layer.weight)


# --- RainbowHead -------------------------------------------------------------------------------------------


def _head(actions: int = 3, seed: int = 0) -> RainbowHead:
    head = RainbowHead(RainbowHeadSpec(latent_size=6, hidden=5, actions=actions, atoms=7), _generator(seed), 0.5)
    head.draw_noise(_generator(seed + 1))
    return head


def test_head_is_the_dueling_formula() -> None:
    head = _head()
    spec, weights = head.spec, head.noisy_weights()
    latents = torch.randn(4, 6, generator=_generator(2))
    got = _array(head(latents, weights))
    w_hidden, b_hidden, w_value, b_value, w_advantage, b_advantage = map(_array, weights)
    for row, latent in enumerate(_array(latents)):
        streams = [max(0.0, float(w @ latent) + b) for w, b in zip(w_hidden, b_hidden, strict=True)]
        value_stream, advantage_stream = np.array(streams[: spec.hidden]), np.array(streams[spec.hidden :])
        logits = np.zeros((spec.actions, spec.atoms))
        for atom in range(spec.atoms):
            value = w_value[atom] @ value_stream + b_value[atom]
            advantages = []
            for action in range(spec.actions):
                index = action * spec.atoms + atom
                advantages.append(w_advantage[index] @ advantage_stream + b_advantage[index])
            for action in range(spec.actions):
                logits[action, atom] = value + advantages[action] - sum(advantages) / spec.actions
        for action in range(spec.actions):
            total = sum(math.exp(logit) for logit in logits[action])
            wanted = [math.log(math.exp(logit) / total) for logit in logits[action]]
            np.testing.assert_allclose(got[row, action], wanted, atol=1e-5)


def test_head_gives_log_probabilities() -> None:
    head = _head(actions=18)
    latents = torch.randn(5, 6, generator=_generator(2)) * 30
    probabilities = head(latents, head.mean_weights()).exp()
    assert probabilities.shape == (5, 18, 7)
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(5, 18))


def test_head_uses_the_weights_it_is_given() -> None:
    head = _head()
    latents = torch.randn(2, 6, generator=_generator(2))
    mean, noisy = head.mean_weights(), head.noisy_weights()
    before = head(latents, noisy)
    head.draw_noise(_generator(8))
    assert torch.equal(head(latents, noisy), before)
    assert not torch.equal(head(latents, head.noisy_weights()), before)
    assert not torch.equal(head(latents, mean), before)


@pytest.mark.parametrize("actions", [2, 18])
def test_one_latent_has_the_values_of_the_noisy_weights(actions: int) -> None:
    generator = torch.Generator().manual_seed(3)
    head = RainbowHead(RainbowHeadSpec(latent_size=70, hidden=24, actions=actions, atoms=11), generator, sigma=2.0)
    support = torch.linspace(-4, 4, 11)
    seen = []
    for _ in range(5):
        head.draw_noise(generator)
        latent = torch.randn(1, 70, generator=generator)
        expected = q_values(latent, head.noisy_weights(), support, actions)
        with torch.no_grad():
            found = noisy_q_values(latent, [*head.layer_parameters], head.noise, support, actions)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        seen.append(found)
    assert (seen[0] - seen[1]).abs().max() > 0.1, "the noise matters"


@pytest.mark.parametrize("actions", [2, 5])
def test_the_heads_gradients_are_those_of_autograd(actions: int) -> None:
    head, latents = _head(actions), torch.randn(6, 6, generator=_generator(2)).requires_grad_()
    weights = head.noisy_weights()
    slopes, chosen = torch.randn(4, 7, generator=_generator(3)), torch.tensor([0, 1, 1, actions - 1])
    taken, forward = head_trace(latents.detach(), weights, actions)
    with torch.no_grad():
        below = head_backward(latents[:4].detach(), taken[:4], weights, head.noise, head.gradients(), chosen, slopes)

    streams = torch.relu(_differentiable(head.hidden, latents))
    values = _differentiable(head.value, streams[:, : head.spec.hidden]).unsqueeze(1)
    advantages = _differentiable(head.advantage, streams[:, head.spec.hidden :]).view(6, actions, 7)
    logits = values + advantages - advantages.mean(dim=1, keepdim=True)
    torch.testing.assert_close(forward, logits)
    loss = (logits[torch.arange(4), chosen] * slopes).sum()
    _assert_gradients(head, loss)
    torch.testing.assert_close(below @ weights[0], torch.autograd.grad(loss, latents)[0][:4])


@pytest.mark.parametrize("actions", [1, 4, 6, 9, 18])
def test_head_has_the_parameters_and_multiply_adds_of_its_spec(actions: int) -> None:
    spec = RainbowHeadSpec(latent_size=576, hidden=256, actions=actions, atoms=51)
    head = RainbowHead(spec, _generator())
    assert sum(parameter.numel() for parameter in head.parameters()) == spec.parameters
    assert _counted(lambda: head(torch.zeros(3, 576), head.mean_weights())) == 3 * spec.multiply_adds


def _counted(forward: Callable[[], torch.Tensor]) -> int:
    """Multiply-adds of a forward pass by torch's counter, which counts two operations each."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    operations, odd = divmod(counter.get_total_flops(), 2)
    assert odd == 0
    return operations
