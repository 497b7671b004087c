"""The trainable encoder."""

import math

import torch
from torch import nn
from torch.nn import functional

from seer_edge.networks.spec import Conv, EncoderSpec


class ConvReLU(nn.Module):
    """One convolution and its ReLU, initialised as torch's own but from an injected generator.

    (`nn.Conv2d` draws from the global generator, and `skip_init` imports 40 MB of symbolic algebra.)
    """

    def __init__(self, channels: int, conv: Conv, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels * conv.kernel**2)
        shape = (conv.filters, channels, conv.kernel, conv.kernel)
        self.stride = conv.stride
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(conv.filters).uniform_(-bound, bound, generator=generator))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, filters, H', W']`."""
        return torch.relu_(functional.conv2d(inputs, self.weight, self.bias, self.stride))


class Encoder(nn.Module):
    """uint8 frame stacks `[B, S, H, W]` to float32 latents `[B, L]`: pixels / 255, convolutions, ReLU, flatten."""

    def __init__(self, spec: EncoderSpec, generator: torch.Generator) -> None:
        super().__init__()
        channels = [shape[0] for shape in spec.shapes]
        self.convs = nn.Sequential(
            *(ConvReLU(before, conv, generator) for before, conv in zip(channels, spec.convs, strict=False))
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Latents `[B, L]`. Raises TypeError for anything but uint8: nothing is scaled on a guess."""
        if observations.dtype != torch.uint8:
            raise TypeError(f"the encoder takes uint8 frame stacks, not {observations.dtype}")
        latents: torch.Tensor = self.convs(observations.to(torch.float32).div_(255))
        return latents.flatten(1)
