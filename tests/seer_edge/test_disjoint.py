"""Disjoint convolutions as matrix products, compared with torch's convolutions and autograd."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from seer_edge.networks.disjoint import apply_disjoint, window_order
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.spec import ENCODERS, Conv, EncoderSpec

STACKS = {
    "one layer": (Conv(5, 3, 3),),
    "data-efficient": ENCODERS["data-efficient"],
    "three layers": (Conv(3, 2, 2), Conv(4, 3, 3, relu=False), Conv(5, 2, 2)),
    "one by one": (Conv(3, 1), Conv(4, 2, 2)),
    "between overlapping layers": (Conv(3, 3, 2), Conv(4, 2, 2), Conv(5, 2, 2), Conv(3, 3, 1)),
    "below an overlapping layer": (Conv(3, 2, 2), Conv(4, 2, 2), Conv(5, 3, 1, 1)),
}


def _stack(layers: tuple[Conv, ...]) -> tuple[Encoder, torch.Tensor]:
    """Return an encoder and stacks whose sides leave a margin at every layer."""
    spec = EncoderSpec("stack", layers, (2, 53, 59))
    pixels = np.random.default_rng(4).integers(0, 256, (3, *spec.input_shape), np.uint8)
    return Encoder(spec, torch.Generator().manual_seed(3)), torch.from_numpy(pixels)


def _by_convolutions(encoder: Encoder, maps: torch.Tensor) -> torch.Tensor:
    for layer, (weight, bias) in enumerate(zip(*[iter(encoder.parameters())] * 2, strict=True)):
        conv = encoder.spec.layers[layer].convs[0]
        maps = functional.conv2d(maps, weight, bias, conv.stride, conv.padding)
        maps = torch.relu(maps) if conv.relu else maps
    return maps.flatten(1)


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_600_updates_have_the_gradients_of_autograd(layers: tuple[Conv, ...]) -> None:
    encoder, stacks = _stack(layers)
    generator = torch.Generator().manual_seed(5)
    parameters = list(encoder.parameters())
    pixels, maps = encoder.pixels(stacks[:2]), stacks[:2].float() / 255
    for _ in range(600 if layers is ENCODERS["data-efficient"] else 5):
        slopes = torch.randn(2, encoder.spec.flat_size, generator=generator).div_(encoder.spec.flat_size)
        found, wanted = encoder.maps_of_pixels(pixels), _by_convolutions(encoder, maps)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        slopes *= (found > 0) == (wanted > 0)  # rounding may move an output across the ReLU's corner
        own = torch.autograd.grad((found * slopes).sum(), parameters)
        others = torch.autograd.grad((wanted * slopes).sum(), parameters)
        for gradient, other in zip(own, others, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            torch._foreach_add_(parameters, list(own), alpha=-0.1)


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_every_cut_gives_the_maps_of_the_convolutions(layers: tuple[Conv, ...]) -> None:
    encoder, stacks = _stack(layers)
    for cut in range(1, len(layers) + 1):
        lower = Encoder(EncoderSpec("lower", layers, (2, 53, 59), frozen_layers=cut), torch.Generator())
        lower.load_state_dict(encoder.state_dict())
        frozen = lower.frozen(stacks)
        maps = stacks.float() / 255
        for conv, own in zip(layers[:cut], lower.convs, strict=False):
            maps = functional.conv2d(maps, own.weight, own.bias, conv.stride, conv.padding)
            maps = torch.relu(maps) if conv.relu else maps
        torch.testing.assert_close(frozen, maps.flatten(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(lower.rest(frozen), lower.maps(stacks))


def test_gradients_of_the_windows_are_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 2, 9, 8, dtype=torch.float64, generator=generator).sub_(0.5).requires_grad_()
    weights = [
        torch.randn(3, 2, 2, 2, generator=generator).double(),
        torch.randn(2, 3, 2, 2, generator=generator).double(),
    ]
    biases = [torch.zeros(3).double(), torch.zeros(2).double()]

    def rows(maps: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        windows = window_order(maps, (2, 2)).flatten(1)
        return apply_disjoint(windows, parameters[:2], parameters[2:], [True, False])

    parameters = [tensor.requires_grad_() for tensor in (*weights, *biases)]
    assert torch.autograd.gradcheck(rows, (maps, *parameters))


def test_pixels_outside_all_windows_are_not_read() -> None:
    encoder, stacks = _stack(ENCODERS["data-efficient"])
    assert encoder.pixels(stacks).shape == (3, 2 * 50 * 50)
    latents = encoder.maps(stacks)
    stacks[:, :, 50:] = stacks[:, :, :, 50:] = 0
    assert torch.equal(encoder.maps(stacks), latents)
