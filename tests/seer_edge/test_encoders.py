"""Encoder modules against a naive numpy version, their gradients, and their initial weights."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.networks.encoder import Encoder
from seer_edge.networks.spec import (
    ENCODERS,
    Conv,
    EncoderSpec,
    Layer,
    MaxPool,
    ReLU,
    Residual,
    encoder_spec,
)
from tests.seer_edge.encoder_rig import CUTS, FCS, new_encoder, random_observations, spec_id

# --- the module's outputs ----------------------------------------------------------------------------------


def _naive_conv(
    maps: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64], stride: int, pad: int
):
    padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
    kernel = weight.shape[2]
    height, width = ((side - kernel) // stride + 1 for side in padded.shape[1:])
    out = np.zeros((len(weight), height, width))
    for y, x in itertools.product(range(height), range(width)):
        window = padded[:, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
        out[:, y, x] = (weight * window).sum((1, 2, 3)) + bias
    return out


def _naive_pool(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Max-pool 3x3 windows, stride 2, with one pixel of padding that is never the maximum."""
    height, width = ((side + 1) // 2 for side in maps.shape[1:])
    out = np.zeros((len(maps), height, width))
    for y, x in itertools.product(range(height), range(width)):
        out[:, y, x] = maps[:, max(2 * y - 1, 0) : 2 * y + 2, max(2 * x - 1, 0) : 2 * x + 2].max((1, 2))
    return out


def _naive_latents(encoder: Encoder, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return float64 latents `[N, L]` of one stack, following the papers' descriptions of the four encoders."""
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    numbers = itertools.count()

    def conv(maps: NDArray[np.float64], stride: int = 1, pad: int = 0) -> NDArray[np.float64]:
        index = next(numbers)
        return _naive_conv(maps, state[f"convs.{index}.weight"], state[f"convs.{index}.bias"], stride, pad)

    def relu(maps: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(maps, 0)

    maps = frames / 255
    if encoder.spec.name == "impala":
        for _ in range(3):
            maps = _naive_pool(conv(maps, pad=1))
            for _ in range(2):
                maps = maps + conv(relu(conv(relu(maps), pad=1)), pad=1)
        maps = relu(maps)
    else:
        for stride in {"data-efficient": (5, 5), "canonical": (4, 2, 1), "sac-ae": (2, 1, 1, 1)}[encoder.spec.name]:
            maps = relu(conv(maps, stride))
    flat = maps.reshape(-1)
    networks = range(len(encoder.fcs))
    return np.stack([state[f"fcs.{n}.weight"] @ flat + state[f"fcs.{n}.bias"] for n in networks] or [flat])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("fcs", FCS, ids=["bare", "fcs"])
def test_latents_equal_the_naive_ones(name: str, fcs: dict[str, int]) -> None:
    side = {"data-efficient": 30, "canonical": 40, "sac-ae": 17, "impala": 13}[name]
    spec = encoder_spec(name, input_shape=(3, side, side + 2), **fcs)
    encoder, observations = new_encoder(spec), random_observations(spec)
    before = observations.clone()
    latents = encoder(observations)
    wanted = np.stack([_naive_latents(encoder, stack) for stack in observations.numpy()])
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(latents.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(observations, before)


@pytest.mark.parametrize(
    ("layer", "naive"),
    [
        (MaxPool(3, 2, 1), lambda maps: _naive_pool(maps)),
        (ReLU(), lambda maps: maps),
        (Conv(5, 3, 2, 1, relu=False), lambda maps, *weights: _naive_conv(maps, *weights, 2, 1)),
        (
            Residual(2),
            lambda maps, *weights: (
                maps + _naive_conv(np.maximum(_naive_conv(maps, *weights[:2], 1, 1), 0), *weights[2:], 1, 1)
            ),
        ),
    ],
    ids=["max-pool", "relu", "convolution", "residual"],
)
def test_each_layer_alone_equals_the_naive_one(layer: Layer, naive: Callable[..., NDArray[np.float64]]) -> None:
    """The layer reads raw pixels, so that no other layer can mask an error."""
    spec = EncoderSpec("one layer", (layer,), (2, 7, 8))
    encoder, observations = new_encoder(spec), random_observations(spec, 1)
    weights = (parameter.detach().double().numpy() for parameter in encoder.parameters())
    wanted = naive(observations[0].double().numpy() / 255, *weights)
    np.testing.assert_allclose(encoder.maps(observations)[0].detach(), wanted.reshape(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", CUTS, ids=spec_id)
def test_frozen_layers_followed_by_the_rest_equal_the_encoder(spec: EncoderSpec) -> None:
    encoder, observations = new_encoder(spec), random_observations(spec)
    maps = encoder.maps(observations)
    prefix = encoder.frozen(observations)
    assert not prefix.requires_grad
    assert prefix.is_contiguous()
    assert prefix.shape == (2, math.prod(spec.shapes[spec.cut]))
    torch.testing.assert_close(encoder.rest(prefix), maps)
    latents = torch.stack([encoder.project(maps, network) for network in range(spec.networks)], dim=1)
    assert torch.equal(encoder(observations), latents)
    if spec.frozen_layers >= len(encoder.convs):
        assert torch.equal(encoder.rest(prefix), prefix)


@pytest.mark.parametrize("spec", [spec for spec in CUTS if not spec.whole], ids=spec_id)
def test_the_rest_has_the_gradients_of_the_whole_encoder(spec: EncoderSpec) -> None:
    encoder, observations = new_encoder(spec), random_observations(spec)
    encoder(observations).square().sum().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}
    encoder.zero_grad()
    maps = encoder.rest(encoder.frozen(observations))
    torch.stack([encoder.project(maps, network) for network in range(spec.networks)]).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        if name in spec.frozen_weight_shapes:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5 * wanted[name].abs().max())


def test_gradients_against_finite_differences() -> None:
    """The in-place ReLU must not overwrite values that the backward pass needs."""
    layers = Conv(2, 3), Conv(2, 3, 1, 1, relu=False), MaxPool(3, 2, 1), Residual(2), ReLU()
    encoder = new_encoder(EncoderSpec("small", layers, (1, 7, 7), frozen_layers=1)).double()
    maps = torch.rand(2, 2 * 5 * 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sub_(0.5)
    assert encoder.rest(maps).count_nonzero() < encoder.rest(maps).numel()
    assert torch.autograd.gradcheck(encoder.rest, maps.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64, torch.bool])
def test_observations_other_than_uint8_are_rejected(dtype: torch.dtype) -> None:
    encoder = new_encoder(encoder_spec("data-efficient", input_shape=(4, 42, 42)))
    for call in (encoder, encoder.maps, encoder.frozen):
        with pytest.raises(TypeError, match="uint8"):
            call(torch.zeros(1, 4, 42, 42, dtype=dtype))


# --- initialisation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("orthogonal", [False, True])
def test_weights_depend_only_on_the_injected_generator(name: str, orthogonal: bool) -> None:
    spec = encoder_spec(name, input_shape=(9, 42, 42), networks=2, features=50)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    states = [new_encoder(spec, seed, orthogonal=orthogonal).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    for weight in (name for name in states[0] if name.endswith("weight")):
        assert torch.equal(states[0][weight], states[1][weight])
        assert not torch.equal(states[0][weight], states[2][weight])
    assert not torch.equal(states[0]["fcs.0.weight"], states[0]["fcs.1.weight"])


@pytest.mark.parametrize("name", ENCODERS)
def test_default_weights_have_torchs_distribution_and_a_fixed_order(name: str) -> None:
    """Uniform in +-1 / sqrt(fan-in), weight before bias, layer by layer. Golden results depend on the order."""
    spec = encoder_spec(name, input_shape=(4, 42, 42), networks=2, features=50)
    generator = torch.Generator().manual_seed(3)
    state = new_encoder(spec, 3).state_dict()
    for weight, bias in zip(list(state)[::2], list(state)[1::2], strict=True):
        bound = 1 / math.sqrt(state[weight][0].numel())
        for name in (weight, bias):
            wanted = torch.empty(state[name].shape).uniform_(-bound, bound, generator=generator)
            assert torch.equal(state[name], wanted)


@pytest.mark.parametrize("name", ENCODERS)
def test_orthogonal_weights_are_orthogonal(name: str) -> None:
    spec = encoder_spec(name, input_shape=(9, 42, 42), networks=2, features=50)
    encoder = new_encoder(spec, orthogonal=True)
    for conv in encoder.convs:
        middle = conv.weight.shape[2] // 2
        centre = conv.weight[:, :, middle, middle].detach().clone()
        _assert_orthogonal(centre, gain=math.sqrt(2))
        assert conv.weight.count_nonzero() == centre.count_nonzero()
    for fc in encoder.fcs:
        _assert_orthogonal(fc.weight.detach(), gain=1)
    assert all(not layer.bias.any() for layer in (*encoder.convs, *encoder.fcs))


def _assert_orthogonal(matrix: torch.Tensor, gain: float) -> None:
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    torch.testing.assert_close(short @ short.T, gain**2 * torch.eye(len(short)), atol=1e-5, rtol=0)
