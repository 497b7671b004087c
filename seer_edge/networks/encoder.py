"""The trainable encoder."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from seer_edge.networks.spec import Conv, EncoderSpec, Layer, MaxPool, ReLU, Residual

# Forward and backward on one thread take 25 % less time than channels first with data-efficient, 16 % less with
# sac-ae, 39 % less with impala (84x84); forward alone 17 % more, 2 % less, 57 % less.
LAYOUT = torch.channels_last


class Affine(nn.Module):
    """Weight and bias of a convolution `[out, in, k, k]` or of a linear layer `[out, in]`.

    They are initialised as torch's own (uniform) or, with `orthogonal`, as CURL's: linear weights orthogonal,
    convolutions delta-orthogonal (Xiao et al. 2018) with the gain of ReLU, biases zero. Either way from the
    injected generator: `nn.Conv2d` draws from the global one, and `skip_init` imports 40 MB of symbolic algebra.
    """

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator, *, orthogonal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
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
    """One convolution and its ReLU, if it has one: `[B, channels, H, W]` to `[B, filters, H', W']`."""

    def __init__(self, conv: Conv, channels: int, generator: torch.Generator, *, orthogonal: bool) -> None:
        super().__init__((conv.filters, channels, conv.kernel, conv.kernel), generator, orthogonal=orthogonal)
        self.conv = conv

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        outputs = functional.conv2d(inputs, self.weight, self.bias, self.conv.stride, self.conv.padding)
        return torch.relu_(outputs) if self.conv.relu else outputs


class Linear(Affine):
    """One fully connected layer: `[B, in]` to `[B, out]`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return functional.linear(inputs, self.weight, self.bias)


class Encoder(nn.Module):
    """uint8 frame stacks `[B, C, h, w]` to float32 latents `[B, N, L]`: pixels / 255, trunk, flatten, fcs.

    Where `spec.features` is None there is no fc: N is 1 and L the size of the trunk's last map. All maps are
    flattened channels first, whatever their layout in memory.
    """

    def __init__(self, spec: EncoderSpec, generator: torch.Generator, *, orthogonal: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.convs = nn.ModuleList(
            Convolution(conv, before[0], generator, orthogonal=orthogonal)
            for layer, before in zip(spec.layers, spec.shapes, strict=False)
            for conv in layer.convs
        )
        self.fcs = nn.ModuleList(
            Linear((spec.features, spec.flat_size), generator, orthogonal=orthogonal)
            for _ in range(spec.networks)
            if spec.features is not None
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Latents `[B, N, L]` for all networks. Raises TypeError for anything but uint8."""
        maps = self.maps(observations)
        return torch.stack([self.project(maps, network) for network in range(self.spec.networks)], dim=1)

    def maps(self, observations: torch.Tensor) -> torch.Tensor:
        """The trunk's last maps, flattened `[B, flat_size]`. Raises TypeError for anything but uint8."""
        return self._trunk(_pixels(observations), 0, len(self.spec.layers))

    def project(self, maps: torch.Tensor, network: int) -> torch.Tensor:
        """One network's latents `[B, L]` of `maps` `[B, flat_size]`: `maps` themselves where there is no fc."""
        latents: torch.Tensor = self.fcs[network](maps) if self.fcs else maps
        return latents

    def frozen(self, observations: torch.Tensor) -> torch.Tensor:
        """The map at the cut, flattened `[B, elements]`, without gradient. Raises TypeError for anything but uint8."""
        with torch.no_grad():
            return self._trunk(_pixels(observations), 0, self.spec.cut)

    def rest(self, inputs: torch.Tensor) -> torch.Tensor:
        """The trunk's last maps `[B, flat_size]` of the flattened maps at the cut `[B, elements]`."""
        maps = inputs.view(-1, *self.spec.shapes[self.spec.cut]).contiguous(memory_format=LAYOUT)
        return self._trunk(maps, self.spec.cut, len(self.spec.layers))

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters up to the cut, by their names in the state."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in self.spec.frozen_weight_shapes}

    def _trunk(self, hidden: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Layers `start` to `end` of the trunk over maps `[B, channels, height, width]`, then flattened."""
        convs = iter(self.convs)
        for index, layer in enumerate(self.spec.layers[:end]):
            own = [next(convs) for _ in layer.convs]
            if index >= start:
                hidden = _apply(layer, own, hidden)
        return hidden.flatten(1)


def _pixels(observations: torch.Tensor) -> torch.Tensor:
    """float32 in [0, 1] of uint8: nothing else is scaled on a guess."""
    if observations.dtype != torch.uint8:
        raise TypeError(f"the encoder takes uint8 frame stacks, not {observations.dtype}")
    return observations.to(torch.float32, memory_format=LAYOUT).div_(255)


def _apply(layer: Layer, convs: Sequence[nn.Module], maps: torch.Tensor) -> torch.Tensor:
    """One layer, whose convolutions are `convs`, over `maps` `[B, channels, height, width]`."""
    match layer:
        case Conv():
            hidden: torch.Tensor = convs[0](maps)
            return hidden
        case MaxPool():
            return functional.max_pool2d(maps, layer.kernel, layer.stride, layer.padding)
        case ReLU():
            return torch.relu(maps)
        case Residual():
            branch = torch.relu(maps)
            for conv in convs:
                branch = conv(branch)
            return maps + branch
