"""The outputs of an encoder's layers at the weights of one snapshot. Imports torch."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.networks.encoder import Encoder
from seer_edge.networks.sac_spec import ACTOR, CRITIC
from seer_edge.networks.spec import EncoderSpec, Residual
from seer_edge.runs.snapshots import Weights

Outputs = Mapping[str, NDArray[np.float32]]
"""Outputs by the name of the layer, bottom first: `[B, channels, H, W]`, or `[B, features]` of an fc."""


class SnapshotEncoder:
    """The encoder of a run with the weights of one snapshot."""

    def __init__(self, spec: EncoderSpec, weights: Weights) -> None:
        self._spec = spec
        self._encoder = Encoder(spec, torch.Generator()).requires_grad_(False)
        self._encoder.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})

    @torch.no_grad()
    def outputs(self, stacks: NDArray[np.uint8]) -> Outputs:
        """Return the outputs of the layers with weights for stacks `[B, C, h, w]`."""
        found: dict[str, NDArray[np.float32]] = {}
        maps = torch.empty(0)
        for name, maps in zip(trunk_names(self._spec), self._encoder.each_layer(torch.from_numpy(stacks)), strict=True):
            if name is not None:
                found[name] = maps.numpy()
        for network, name in enumerate(fc_names(self._spec)):
            found[name] = self._encoder.project(maps.flatten(1), network).numpy()
        return found

    @torch.no_grad()
    def latents(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the latents `[B, N, L]` of stacks `[B, C, h, w]`: the output of the layers that the run freezes."""
        frames = torch.from_numpy(stacks)
        latents = self._encoder(frames) if self._spec.whole else self._encoder.frozen(frames)[:, None]
        result: NDArray[np.float32] = latents.numpy()
        return result


def layer_names(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the names of the layers with weights, bottom first."""
    return (*(name for name in trunk_names(spec) if name is not None), *fc_names(spec))


def trunk_names(spec: EncoderSpec) -> Iterator[str | None]:
    """Yield the name of each layer of the trunk, counted by kind; None for a layer without weights."""
    counts = {"conv": 0, "residual": 0}
    for layer in spec.layers:
        kind = "residual" if isinstance(layer, Residual) else "conv"
        counts[kind] += bool(layer.convs)
        yield f"{kind} {counts[kind]}" if layer.convs else None


def fc_names(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the names of the fcs, by network; none for an encoder without them."""
    if spec.features is None:
        return ()
    known: dict[int, Any] = {CRITIC: "critic fc", ACTOR: "actor fc"} if spec.networks == 2 else {}
    return tuple(known.get(network, f"fc {network + 1}") for network in range(spec.networks))
