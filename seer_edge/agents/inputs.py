"""What the trained part of an encoder reads, and the way from there to a head's latents."""

from enum import Enum

import torch
from torch import nn

from seer_edge.networks.encoder import Encoder


class Inputs(Enum):
    """The input of the trained part of an encoder."""

    FRAMES = "frames"  # uint8 [B, C, h, w]: the whole encoder trains
    CUT = "maps at the cut"  # float32 [B, 1, L]: the layers above the cut train
    LATENTS = "latents"  # float32 [B, N, L]: no layer trains


@torch.no_grad()
def copy_parameters(target: nn.Module, source: nn.Module) -> None:
    """Copy the parameters of `source` to `target`."""
    torch._foreach_copy_(list(target.parameters()), list(source.parameters()))


def input_of(encoder: Encoder, *, reads_latents: bool) -> Inputs:
    """Return what the trained part reads: frames, or with `reads_latents` the outputs of the frozen part."""
    if not reads_latents:
        return Inputs.FRAMES
    return Inputs.LATENTS if encoder.spec.whole else Inputs.CUT


def maps_of(kind: Inputs, encoder: Encoder, inputs: torch.Tensor) -> torch.Tensor:
    """Return the last maps of the trunk `[B, flat_size]`, or the latents `[B, N, L]` if `inputs` are latents."""
    match kind:
        case Inputs.FRAMES:
            return encoder.maps_of_pixels(inputs)
        case Inputs.CUT:
            return encoder.rest(inputs.flatten(1))
        case Inputs.LATENTS:
            return inputs


def latents_of_maps(kind: Inputs, encoder: Encoder, maps: torch.Tensor, network: int) -> torch.Tensor:
    """Return latents `[B, L]` for the head of one network."""
    if kind is Inputs.LATENTS:
        return maps[:, network]
    return encoder.project(maps if network == 0 else maps.detach(), network)
