"""The trainable encoder, as a torch module."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from seer_edge.networks.disjoint import apply_disjoint, is_disjoint, window_order
from seer_edge.networks.spec import Conv, EncoderSpec, Layer, MaxPool, ReLU, Residual, Shape

# Against channels first, on one thread at 84x84: forward and backward take 16 % less time with sac-ae and 39 % less
# with impala, forward alone 2 % and 57 % less.
LAYOUT = torch.channels_last
ALIGNMENT = 64
"""Bytes to which torch aligns its tensors on the CPU."""


class Affine(nn.Module):
    """Float32 weight and bias of a convolution `[out, in, k, k]` or of a linear layer `[out, in]`.

    The default initialisation is torch's own (uniform). With `orthogonal` it is CURL's: linear weights orthogonal,
    convolutions delta-orthogonal (Xiao et al. 2018) with the gain of ReLU, biases zero.

    This class replaces torch's modules because they cannot draw from the injected `generator`: `nn.Conv2d` uses the
    global one, and `skip_init` imports 40 MB of symbolic algebra.
    """

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator, *, orthogonal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(shape[0], dtype=torch.float32))
        with torch.no_grad():
            if not orthogonal:
                bound = 1 / math.sqrt(math.prod(shape[1:]))
                self.weight.uniform_(-bound, bound, generator=generator)
                self.bias.uniform_(-bound, bound, generator=generator)
            elif len(shape) == 2:
                nn.init.orthogonal_(self.weight, generator=generator)
            else:
                centre = self.weight[:, :, shape[2] // 2, shape[3] // 2]
                nn.init.orthogonal_(centre, math.sqrt(2), generator=generator)


class Convolution(Affine):
    """One convolution and its optional ReLU: `[B, channels, H, W]` to `[B, filters, H', W']`."""

    def __init__(self, conv: Conv, channels: int, generator: torch.Generator, *, orthogonal: bool) -> None:
        super().__init__((conv.filters, channels, conv.kernel, conv.kernel), generator, orthogonal=orthogonal)
        self.conv = conv

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps `[B, filters, H', W']` of `maps` `[B, channels, H, W]`."""
        maps = functional.conv2d(maps, self.weight, self.bias, self.conv.stride, self.conv.padding)
        return torch.relu_(maps) if self.conv.relu else maps


class Linear(Affine):
    """One fully connected layer: `[B, in]` to `[B, out]`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs `[B, out]` of `inputs` `[B, in]`."""
        return functional.linear(inputs, self.weight, self.bias)


class Encoder(nn.Module):
    """Encoder from uint8 frame stacks `[B, C, h, w]` to float32 latents `[B, N, L]`.

    It scales pixels by 1 / 255, runs the trunk, flattens its last maps and applies one fc for each network. Without
    fcs (`spec.features` is None) N is 1 and L is the size of the trunk's last maps. Maps are flattened channels first,
    whatever their layout in memory.

    An encoder whose spec is `outside` has no layers. ONNX Runtime computes its latents.
    """

    def __init__(self, spec: EncoderSpec, generator: torch.Generator, *, orthogonal: bool = False) -> None:
        super().__init__()
        self.spec = spec
        layers = () if spec.outside else spec.layers
        self.convs = nn.ModuleList(
            Convolution(conv, before[0], generator, orthogonal=orthogonal)
            for layer, before in zip(layers, spec.shapes, strict=False)
            for conv in layer.convs
        )
        self.fcs = nn.ModuleList(
            Linear((spec.features, spec.flat_size), generator, orthogonal=orthogonal)
            for _ in range(spec.networks)
            if spec.features is not None and not spec.outside
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the latents `[B, N, L]` of all networks. Raises TypeError as `pixels` does."""
        maps = self.maps(observations)
        return torch.stack([self.project(maps, network) for network in range(self.spec.networks)], dim=1)

    def maps(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the trunk's last maps, flattened to `[B, flat_size]`. Raises TypeError as `pixels` does."""
        return self.maps_of_pixels(self.pixels(observations))

    def pixels(self, observations: torch.Tensor, end: int | None = None) -> torch.Tensor:
        """Return the input of the first layer, float32 in [0, 1]. It depends on the layers, not on the weights.

        `end` is the number of layers that will read it: all of the trunk's by default. Raises TypeError unless
        `observations` are uint8 stacks of the encoder's input shape. Other dtypes are rejected because their scale is
        unknown.
        """
        self._check_frames(observations)
        # Reorder uint8 before the conversion to the four times larger floats.
        first = next(self._groups(0, len(self.spec.layers) if end is None else end), None)
        if first is None or not is_disjoint(first[0]):
            # `contiguous` would take twice as long.
            pixels = torch.stack(observations.unbind(1), dim=3).permute(0, 3, 1, 2)
        elif observations.is_cuda:
            pixels = window_order(observations, _kernels(first)).flatten(1)
        else:
            order = _pixel_order(self.spec.input_shape, _kernels(first))
            # The indices are always in range. NumPy takes a quarter of the time of torch's `index_select`.
            pixels = torch.from_numpy(np.take(observations.flatten(1).numpy(), order, axis=1, mode="clip"))
        return _floats(pixels).div_(255)

    def _check_frames(self, observations: torch.Tensor) -> None:
        if observations.dtype != torch.uint8 or observations.shape[1:] != self.spec.input_shape:
            found = f"{observations.dtype} of shape {list(observations.shape)}"
            raise TypeError(f"the encoder needs uint8 stacks [B, {str(self.spec.input_shape)[1:-1]}], not {found}")

    def each_layer(self, observations: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the maps `[B, channels, height, width]` after each layer of the trunk, bottom first.

        Slower than `maps`, which computes some layers together. Raises TypeError as `pixels` does.
        """
        self._check_frames(observations)
        maps = observations.to(torch.float32).div_(255)
        convs = iter([conv for conv in self.convs if isinstance(conv, Convolution)])
        for layer in self.spec.layers:
            maps = _apply(layer, [next(convs) for _ in layer.convs], maps)
            yield maps

    def maps_of_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the trunk's last maps `[B, flat_size]` of what `pixels` returned."""
        return self._trunk(pixels, 0, len(self.spec.layers))

    def project(self, maps: torch.Tensor, network: int) -> torch.Tensor:
        """Apply one network's fc to `maps` `[B, flat_size]`; return latents `[B, L]`. Without fcs return `maps`."""
        latents: torch.Tensor = self.fcs[network](maps) if self.fcs else maps
        return latents

    def frozen(self, observations: torch.Tensor) -> torch.Tensor:
        """Run the frozen layers without gradient; return the maps at the cut, flattened to `[B, elements]`.

        Raises TypeError as `pixels` does.
        """
        with torch.no_grad():
            return self._trunk(self.pixels(observations, self.spec.cut), 0, self.spec.cut)

    def rest(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the trunk's layers above the cut on its flattened maps `[B, elements]`; return `[B, flat_size]`."""
        maps = inputs.view(-1, *self.spec.shapes[self.spec.cut])
        return self._trunk(maps, self.spec.cut, len(self.spec.layers))

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """Return the frozen layers' parameters, by their names in the module's state."""
        parameters = dict(self.named_parameters())
        if self.spec.outside:
            return parameters
        return {name: parameters[name] for name in self.spec.frozen_weight_shapes}

    def _groups(self, start: int, end: int) -> Iterator[Sequence[Layer]]:
        """Yield the layers from `start` to `end`, bottom first: consecutive disjoint ones together, others alone."""
        for disjoint, group in groupby(self.spec.layers[start:end], is_disjoint):
            layers = tuple(group)
            yield from [layers] if disjoint else zip(layers, strict=True)

    def _trunk(self, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Run layers `start` to `end` of the trunk and flatten the result.

        `hidden` are maps `[B, channels, height, width]`, or, where `start` is 0, what `pixels` returned for `end`.
        """
        done = start
        below = sum(len(layer.convs) for layer in self.spec.layers[:start])
        convs = iter([conv for conv in self.convs if isinstance(conv, Convolution)][below:])
        for group in self._groups(start, end):
            own = [next(convs) for layer in group for _ in layer.convs]
            if is_disjoint(group[0]):
                windows = window_order(hidden, _kernels(group)).flatten(1) if done else hidden
                hidden = _apply_group(own, windows, self.spec.shapes[done + len(group)])
            else:
                hidden = hidden.contiguous(memory_format=LAYOUT) if start and done == start else hidden
                hidden = _apply(group[0], own, hidden)
            done += len(group)
        return hidden.flatten(1)


@cache
def _pixel_order(input_shape: Shape, kernels: tuple[int, ...]) -> NDArray[np.intp]:
    """Return where `window_order` takes each pixel from, as indices of a flat stack."""
    indices = torch.arange(math.prod(input_shape)).view(1, *input_shape)
    order: NDArray[np.intp] = window_order(indices, kernels).flatten().numpy()
    return order


def _floats(pixels: torch.Tensor) -> torch.Tensor:
    """Return `pixels`, which have no gaps in memory, as float32 with the same strides.

    On the CPU the memory is NumPy's. Torch asks glibc for aligned memory, and glibc before 2.38 cannot reuse a freed
    aligned block for another of the same size. The heap then grows to about twice the inputs that are in use. The
    result is aligned as torch's tensors are, because products may round differently at other alignments.
    """
    if pixels.is_cuda:
        return pixels.to(torch.float32)
    size_bytes = 4 * pixels.numel()
    room = np.empty(size_bytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    floats = torch.from_numpy(room[start : start + size_bytes].view(np.float32))
    return floats.as_strided(pixels.shape, pixels.stride()).copy_(pixels)


def _kernels(group: Sequence[Layer]) -> tuple[int, ...]:
    return tuple(conv.kernel for layer in group for conv in layer.convs)


def _apply_group(convs: Sequence[Convolution], windows: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Apply disjoint convolutions to `windows`, maps in `window_order`. Return maps `[B, *shape]`, channels last."""
    weights, biases = [conv.weight for conv in convs], [conv.bias for conv in convs]
    rows = apply_disjoint(windows, weights, biases, [conv.conv.relu for conv in convs])
    return rows.view(-1, *shape[1:], shape[0]).permute(0, 3, 1, 2)


def _apply(layer: Layer, convs: Sequence[Convolution], maps: torch.Tensor) -> torch.Tensor:
    """Apply one layer, whose convolutions are `convs`, to `maps` `[B, channels, height, width]`."""
    match layer:
        case Conv():
            return convs[0].forward(maps)
        case MaxPool():
            return functional.max_pool2d(maps, layer.kernel, layer.stride, layer.padding)
        case ReLU():
            return torch.relu(maps)
        case Residual():
            branch = torch.relu(maps)
            for conv in convs:
                branch = conv.forward(branch)
            return maps + branch
