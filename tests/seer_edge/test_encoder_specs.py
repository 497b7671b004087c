"""Encoder specs: shapes, FLOPs, frozen layers and registration, compared with closed forms and torch's FLOP counter."""

import dataclasses
import math
import re
import subprocess
import sys
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from seer_edge.networks.spec import (
    ENCODERS,
    Conv,
    EncoderSpec,
    MaxPool,
    ReLU,
    Residual,
    encoder_spec,
    register_encoder,
)
from tests.seer_edge.encoder_rig import CUTS, FCS, new_encoder, random_observations, spec_id


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
    assert new_encoder(spec)(random_observations(spec)).shape == (2, 1, spec.flat_size)


def test_flat_sizes_of_the_control_encoder() -> None:
    sizes = {side: encoder_spec("sac-ae", input_shape=(9, side, side)).flat_size for side in (84, 42)}
    assert sizes == {84: 39_200, 42: 6_272}


def test_impala_has_fifteen_convolutions_in_three_sections() -> None:
    spec = encoder_spec("impala", input_shape=(4, 84, 84), features=50)
    assert spec.weight_layers == 16
    assert spec.cuts == (1, 3, 5, 6, 8, 10, 11, 13, 15, 16)
    assert [tuple(conv.weight.shape) for conv in new_encoder(spec).convs] == [
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


@pytest.mark.parametrize("spec", CUTS, ids=spec_id)
def test_spec_matches_torchs_counts(spec: EncoderSpec) -> None:
    """At 50x50, where every output of every layer of data-efficient is used. Others are not computed."""
    spec = dataclasses.replace(spec, input_shape=(9, 50, 50))
    encoder, observations = new_encoder(spec), random_observations(spec)
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == spec.weight_shapes
    assert sum(parameter.numel() for parameter in encoder.parameters()) == spec.parameters
    with FlopCounterMode(display=False) as counter:
        encoder(observations)
    assert counter.get_total_flops() == 2 * 2 * spec.multiply_adds
    with FlopCounterMode(display=False) as counter:
        encoder(observations) if spec.whole else encoder.frozen(observations)
    assert counter.get_total_flops() == 2 * 2 * spec.frozen_multiply_adds


@pytest.mark.parametrize("spec", CUTS, ids=spec_id)
def test_frozen_parameters_are_those_of_the_lowest_weight_layers(spec: EncoderSpec) -> None:
    frozen = new_encoder(spec).frozen_parameters()
    assert {name: tuple(parameter.shape) for name, parameter in frozen.items()} == spec.frozen_weight_shapes
    assert sum(parameter.numel() for parameter in frozen.values()) == spec.frozen_parameters
    layers = {name.rsplit(".", 1)[0] for name in frozen}
    convs = len(new_encoder(spec).convs)
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
        assert spec.latent_size == spec.latent_shape[1]
        assert spec.frozen_weight_shapes == named.frozen_weight_shapes == spec.weight_shapes
        assert not dataclasses.replace(spec, frozen_layers=1).whole


def test_layers_without_weights_belong_to_the_weights_below_them() -> None:
    impala = encoder_spec("impala", input_shape=(4, 84, 84), features=50)
    shapes = {cut: dataclasses.replace(impala, frozen_layers=cut).latent_shape for cut in (1, 5, 6, 15, 16)}
    pooled = {1: 16 * 42 * 42, 5: 16 * 42 * 42, 6: 32 * 21 * 21, 15: 32 * 11 * 11}
    assert shapes == {**{cut: (1, size) for cut, size in pooled.items()}, 16: (1, 50)}
    encoder = new_encoder(dataclasses.replace(impala, frozen_layers=15))
    assert encoder.frozen(random_observations(impala)).min() == 0  # the last ReLU


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
