"""Encoder specs against closed forms and torch's FLOP counter; encoder modules against a naive numpy version."""

import dataclasses
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

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
    register_encoder,
)

FCS = [{}, {"networks": 2, "features": 50}]


def _encoder(spec: EncoderSpec, seed: int = 3, *, orthogonal: bool = False) -> Encoder:
    return Encoder(spec, torch.Generator().manual_seed(seed), orthogonal=orthogonal)


def _observations(spec: EncoderSpec, batch: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).integers(0, 256, (batch, *spec.input_shape), np.uint8))


def _cut_specs(input_shape: tuple[int, ...], **fcs: int) -> list[EncoderSpec]:
    wholes = [encoder_spec(name, input_shape=input_shape, **fcs) for name in ENCODERS]
    return [dataclasses.replace(whole, frozen_layers=cut) for whole in wholes for cut in whole.cuts]


def _called(spec: EncoderSpec) -> str:
    return f"{spec.name}-{spec.networks}x{spec.features}-{spec.frozen_layers}"


CUTS = [spec for fcs in FCS for spec in _cut_specs((9, 42, 42), **fcs)]


# --- specifications ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "input_shape", "last"),
    [
        ("data-efficient", (4, 84, 84), (64, 3, 3)),
        ("canonical", (4, 84, 84), (64, 7, 7)),
        ("sac-ae", (9, 84, 84), (32, 35, 35)),
        ("sac-ae", (9, 42, 42), (32, 14, 14)),
        ("impala", (4, 84, 84), (32, 11, 11)),
        ("impala", (9, 84, 50), (32, 11, 7)),
        ("impala", (1, 1, 1), (32, 1, 1)),
    ],
)
def test_shape_of_the_last_maps_and_latents(name: str, input_shape: tuple[int, ...], last: tuple[int, ...]) -> None:
    spec = encoder_spec(name, input_shape=input_shape)
    assert spec.shapes[0] == input_shape
    assert spec.shapes[-1] == last
    assert spec.flat_size == spec.latent_size == math.prod(last)
    assert spec.latent_shape == (1, spec.flat_size)
    assert _encoder(spec)(_observations(spec)).shape == (2, 1, spec.flat_size)


def test_flat_sizes_of_the_control_encoder() -> None:
    sizes = {side: encoder_spec("sac-ae", input_shape=(9, side, side)).flat_size for side in (84, 42)}
    assert sizes == {84: 39_200, 42: 6_272}


def test_impala_has_fifteen_convolutions_in_three_sections() -> None:
    spec = encoder_spec("impala", input_shape=(4, 84, 84), features=50)
    assert spec.weight_layers == 16
    assert spec.cuts == (1, 3, 5, 6, 8, 10, 11, 13, 15, 16)
    assert [tuple(conv.weight.shape) for conv in _encoder(spec).convs] == [
        *[(16, 4, 3, 3), *[(16, 16, 3, 3)] * 4],
        *[(32, 16, 3, 3), *[(32, 32, 3, 3)] * 4],
        *[(32, 32, 3, 3), *[(32, 32, 3, 3)] * 4],
    ]


def test_multiply_adds_in_closed_form() -> None:
    alien = encoder_spec("data-efficient", input_shape=(4, 84, 84))
    assert alien.multiply_adds == alien.trunk_multiply_adds == 819_200 + 460_800 == 1_280_000

    control = encoder_spec("sac-ae", input_shape=(9, 84, 84), networks=2, features=50)
    trunk = 9 * 32 * 9 * 41**2 + 32 * 32 * 9 * (39**2 + 37**2 + 35**2)
    assert control.trunk_multiply_adds == trunk == 42_280_992
    assert control.fc_multiply_adds == 39_200 * 50
    assert control.multiply_adds == control.frozen_multiply_adds == trunk + 2 * 39_200 * 50
    two = dataclasses.replace(control, frozen_layers=2)
    assert two.frozen_multiply_adds == 9 * 32 * 9 * 41**2 + 32 * 32 * 9 * 39**2

    impala = encoder_spec("impala", input_shape=(4, 84, 84))
    first, second, third = 84**2, 42**2, 21**2
    sections = 16 * 4 * first + 4 * 16 * 16 * second, 32 * 16 * second + 4 * 32 * 32 * third, 32 * 32 * third
    assert impala.multiply_adds == 9 * (sum(sections) + 4 * 32 * 32 * 11**2)


@pytest.mark.parametrize("spec", CUTS, ids=_called)
def test_spec_matches_torchs_counts(spec: EncoderSpec) -> None:
    """At 50x50, where every output of every layer of data-efficient is used. Others are not computed."""
    spec = dataclasses.replace(spec, input_shape=(9, 50, 50))
    encoder, observations = _encoder(spec), _observations(spec)
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == spec.weight_shapes
    assert sum(parameter.numel() for parameter in encoder.parameters()) == spec.parameters
    with FlopCounterMode(display=False) as counter:
        encoder(observations)
    assert counter.get_total_flops() == 2 * 2 * spec.multiply_adds
    with FlopCounterMode(display=False) as counter:
        encoder(observations) if spec.whole else encoder.frozen(observations)
    assert counter.get_total_flops() == 2 * 2 * spec.frozen_multiply_adds


@pytest.mark.parametrize("spec", CUTS, ids=_called)
def test_frozen_parameters_are_those_of_the_lowest_weight_layers(spec: EncoderSpec) -> None:
    frozen = _encoder(spec).frozen_parameters()
    assert {name: tuple(parameter.shape) for name, parameter in frozen.items()} == spec.frozen_weight_shapes
    assert sum(parameter.numel() for parameter in frozen.values()) == spec.frozen_parameters
    layers = {name.rsplit(".", 1)[0] for name in frozen}
    convs = len(_encoder(spec).convs)
    assert layers == {
        *(f"convs.{index}" for index in range(min(spec.frozen_layers, convs))),
        *(f"fcs.{network}" for network in range(spec.networks) if spec.frozen_layers > convs),
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_the_default_freezes_all_layers(name: str) -> None:
    for fcs in FCS:
        spec = encoder_spec(name, input_shape=(9, 84, 84), **fcs)
        named = dataclasses.replace(spec, frozen_layers=spec.weight_layers)
        assert spec.whole
        assert named.whole
        assert spec.latent_shape == named.latent_shape == ((2, 50) if fcs else (1, spec.flat_size))
        assert (spec.latent_networks, spec.latent_size) == spec.latent_shape
        assert spec.frozen_weight_shapes == named.frozen_weight_shapes == spec.weight_shapes
        assert not dataclasses.replace(spec, frozen_layers=1).whole


def test_layers_without_weights_belong_to_the_weights_below_them() -> None:
    impala = encoder_spec("impala", input_shape=(4, 84, 84), features=50)
    shapes = {cut: dataclasses.replace(impala, frozen_layers=cut).latent_shape for cut in (1, 5, 6, 15, 16)}
    pooled = {1: 16 * 42 * 42, 5: 16 * 42 * 42, 6: 32 * 21 * 21, 15: 32 * 11 * 11}
    assert shapes == {**{cut: (1, size) for cut, size in pooled.items()}, 16: (1, 50)}
    encoder = _encoder(dataclasses.replace(impala, frozen_layers=15))
    assert encoder.frozen(_observations(impala)).min() == 0  # the last ReLU


@pytest.mark.parametrize(
    ("name", "input_shape", "layer"),
    [
        ("data-efficient", (4, 24, 84), "5x5 convolution to 64 channels"),
        ("canonical", (4, 84, 35), "3x3 convolution to 64 channels"),
        ("canonical", (4, 7, 84), "8x8 convolution to 32 channels"),
        ("sac-ae", (9, 14, 84), "3x3 convolution to 32 channels"),
    ],
)
def test_frames_that_are_too_small_are_rejected(name: str, input_shape: tuple[int, ...], layer: str) -> None:
    _, height, width = input_shape
    with pytest.raises(ValueError, match=f"'{name}': frames of {height}x{width} are too small for its {layer}"):
        encoder_spec(name, input_shape=input_shape)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("impala", {"frozen_layers": 2}, r"lowest 2 weight layers; choose one of 1, 3, 5, 6, 8, 10, 11, 13, 15$"),
        ("impala", {"frozen_layers": 4, "features": 50}, r"one of 1, 3, 5, 6, 8, 10, 11, 13, 15, 16$"),
        ("sac-ae", {"frozen_layers": 5}, r"one of 1, 2, 3, 4$"),
        ("sac-ae", {"frozen_layers": 6, "features": 50}, r"one of 1, 2, 3, 4, 5$"),
        ("sac-ae", {"frozen_layers": 0}, r"lowest 0 weight layers"),
        ("sac-ae", {"frozen_layers": -1}, r"lowest -1 weight layers"),
        ("sac-ae", {"networks": 2}, r"no fc, so 2 networks"),
        ("sac-ae", {"networks": 0}, r"networks=0"),
        ("sac-ae", {"features": 0}, r"features=0"),
        ("sac-ae", {"input_shape": (84, 84)}, r"\(channels, height, width\), not \(84, 84\)"),
        ("resnet", {}, r"unknown encoder 'resnet'; choose one of data-efficient, canonical, sac-ae, impala"),
    ],
)
def test_invalid_specs_are_rejected(name: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_spec(name, **{"input_shape": (9, 84, 84), **changes})


def test_a_residual_block_needs_as_many_channels_as_filters() -> None:
    with pytest.raises(ValueError, match="8 filters needs as many channels, not 4"):
        EncoderSpec("odd", (Residual(8),), (4, 9, 9))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "give Conv, MaxPool, Residual and ReLU layers, with at least one convolution"),
        ([ReLU()], "with at least one convolution"),
        (["conv"], "not 'conv'"),
        ([Conv(8, 5, 2)], "layer 1, Conv: filters is 8; use a multiple of 16"),
        ([Conv(0, 5, 2)], "layer 1, Conv: filters is 0; use a multiple of 16"),
        ([Conv(16, 5, 2), Conv(8.5, 3)], "layer 2, Conv: filters is 8.5; give a whole number"),
        ([Conv(16, "3")], "layer 1, Conv: kernel is '3'; give a whole number"),
        ([Conv(16, 0)], "layer 1, Conv: kernel is 0; use 1 to 16"),
        ([Conv(16, 3, 0)], "layer 1, Conv: stride is 0; use 1 to 16"),
        ([Conv(16, 17)], "layer 1, Conv: kernel is 17; use 1 to 16"),
        ([Conv(16, 3, 1, 3)], "layer 1, Conv: padding is 3; use 0 to 2, less than the kernel"),
        ([Conv(16, 3), MaxPool(0, 0)], "layer 2, MaxPool: kernel is 0; use 1 to 16"),
        ([Residual(20)], "layer 1, Residual: filters is 20; use a multiple of 16"),
    ],
)
def test_an_encoder_that_could_not_be_frozen_is_not_registered(layers: list[Any], reason: str) -> None:
    before = dict(ENCODERS)
    with pytest.raises(ValueError, match=f"^encoder 'mine'.*{re.escape(reason)}"):
        register_encoder("mine", layers)
    assert before == ENCODERS


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sac-ae", "there is one of this name already; choose another name"),
        ("My encoder!", "use lower-case letters, digits, - and _ for its name"),
        ("", "use lower-case letters"),
    ],
)
def test_the_name_of_an_encoder_is_new_and_plain(name: str, reason: str) -> None:
    before = dict(ENCODERS)
    with pytest.raises(ValueError, match=reason):
        register_encoder(name, [Conv(16, 5, 5)])
    assert before == ENCODERS


def test_spec_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, seer_edge.networks.spec; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
    encoder, observations = _encoder(spec), _observations(spec)
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
    encoder, observations = _encoder(spec), _observations(spec, 1)
    weights = (parameter.detach().double().numpy() for parameter in encoder.parameters())
    wanted = naive(observations[0].double().numpy() / 255, *weights)
    np.testing.assert_allclose(encoder.maps(observations)[0].detach(), wanted.reshape(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", CUTS, ids=_called)
def test_frozen_layers_followed_by_the_rest_equal_the_encoder(spec: EncoderSpec) -> None:
    encoder, observations = _encoder(spec), _observations(spec)
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


@pytest.mark.parametrize("spec", [spec for spec in CUTS if not spec.whole], ids=_called)
def test_the_rest_has_the_gradients_of_the_whole_encoder(spec: EncoderSpec) -> None:
    encoder, observations = _encoder(spec), _observations(spec)
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
    encoder = _encoder(EncoderSpec("small", layers, (1, 7, 7), frozen_layers=1)).double()
    maps = torch.rand(2, 2 * 5 * 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sub_(0.5)
    assert encoder.rest(maps).count_nonzero() < encoder.rest(maps).numel()
    assert torch.autograd.gradcheck(encoder.rest, maps.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64, torch.bool])
def test_observations_other_than_uint8_are_rejected(dtype: torch.dtype) -> None:
    encoder = _encoder(encoder_spec("data-efficient", input_shape=(4, 42, 42)))
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
    states = [_encoder(spec, seed, orthogonal=orthogonal).state_dict() for seed in (1, 1, 2)]
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
    state = _encoder(spec, 3).state_dict()
    for weight, bias in zip(list(state)[::2], list(state)[1::2], strict=True):
        bound = 1 / math.sqrt(state[weight][0].numel())
        for name in (weight, bias):
            wanted = torch.empty(state[name].shape).uniform_(-bound, bound, generator=generator)
            assert torch.equal(state[name], wanted)


@pytest.mark.parametrize("name", ENCODERS)
def test_orthogonal_weights_are_orthogonal(name: str) -> None:
    spec = encoder_spec(name, input_shape=(9, 42, 42), networks=2, features=50)
    encoder = _encoder(spec, orthogonal=True)
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
