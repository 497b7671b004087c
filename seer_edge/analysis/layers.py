"""The outputs of an agent's layers at the weights of one snapshot. Imports torch."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.sac_spec import ACTOR, CRITIC
from seer_edge.networks.spec import EncoderSpec, Residual
from seer_edge.runs.snapshots import Shapes, Weights

Outputs = Mapping[str, NDArray[np.float32]]
"""Outputs by the name of the layer, bottom first: `[B, channels, H, W]`, or `[B, features]` of an fc."""


class SnapshotEncoder:
    """The encoder of a run with the weights of one snapshot, and the heads of `agent` if the snapshot has theirs.

    The `agent` is on the CPU. Its heads get the weights of the snapshot.
    """

    def __init__(self, spec: EncoderSpec, weights: Weights, agent: Agent) -> None:
        self._spec = spec
        self._encoder = Encoder(spec, torch.Generator()).requires_grad_(False)
        of_encoder = {name: torch.from_numpy(weights[name]) for name in spec.weight_shapes}
        self._encoder.load_state_dict(of_encoder)
        self._agent = agent if weights.keys() > spec.weight_shapes.keys() else None
        if self._agent is not None:
            self._agent.take_head(weights)

    @torch.no_grad()
    def outputs(self, stacks: NDArray[np.uint8]) -> Outputs:
        """Return the outputs of the layers with weights for stacks `[B, C, h, w]`."""
        found: dict[str, NDArray[np.float32]] = {}
        maps = torch.empty(0)
        for name, maps in zip(trunk_names(self._spec), self._encoder.each_layer(torch.from_numpy(stacks)), strict=True):
            if name is not None:
                found[name] = maps.numpy()
        latents = [self._encoder.project(maps.flatten(1), network) for network in range(self._spec.networks)]
        found |= {name: latent.numpy() for name, latent in zip(fc_names(self._spec), latents, strict=False)}
        if self._agent is not None:
            heads = self._agent.head_outputs(torch.stack(latents, dim=1))
            found |= {name: outputs.numpy() for name, outputs in heads.items()}
        return found

    @torch.no_grad()
    def latents(self, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the latents `[B, N, L]` of stacks `[B, C, h, w]`: the output of the layers that the run freezes."""
        frames = torch.from_numpy(stacks)
        latents = self._encoder(frames) if self._spec.whole else self._encoder.frozen(frames)[:, None]
        result: NDArray[np.float32] = latents.numpy()
        return result


def new_agent(plan: BytePlan) -> Agent:
    """Return an agent of a run on the CPU, for the layers of its heads."""
    return make_agent(dataclasses.replace(plan, config=dataclasses.replace(plan.config, device="cpu")), seed=0)


def head_shapes(agent: Agent) -> Shapes:
    """Return the shapes of the heads' weights in a snapshot."""
    return {name: tuple(tensor.shape) for name, tensor in agent.head_tensors().items()}


def layer_names(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the names of the encoder's layers with weights, bottom first."""
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
