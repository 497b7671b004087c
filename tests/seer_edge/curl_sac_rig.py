"""Small CURL + SAC agents and random batches for the tests of CURL + SAC and of its naive version."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents.curl_sac import CurlSacAgent
from seer_edge.config.presets import SacSettings
from seer_edge.networks.sac_spec import SacHeadSpec
from seer_edge.networks.spec import Conv, EncoderSpec
from seer_runtime.replay.replay import Batch
from tests.seer_edge.naive_curl_sac import Frames
from tests.seer_edge.observations import ArrayObservations, SliceBuffer

SPEC = EncoderSpec("tiny", (Conv(4, 3, 2), Conv(3, 3)), (2, 9, 9), networks=2, features=5)
HEADS = SacHeadSpec(features=5, hidden=16, actions=2)
SETTINGS = SacSettings(batch_size=8, hidden=16, features=5, alpha_learning_rate=1e-3)
B = SETTINGS.batch_size
Array = NDArray[Any]


class World:
    """Minibatches for an agent and for the slow agent. Worlds of the same seed have the same ones."""

    def __init__(self, seed: int = 0, slice_size: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.replay = SliceBuffer(slice_size)

    def frames(self) -> Array:
        return self.rng.integers(0, 256, (B, *SPEC.input_shape), dtype=np.uint8)

    def draw(self) -> Frames:
        rng = self.rng
        return Frames(
            *(torch.from_numpy(self.frames()) for _ in range(3)),
            actions=torch.from_numpy(rng.uniform(-1, 1, (B, HEADS.actions)).astype(np.float32)),
            returns=torch.from_numpy(rng.standard_normal(B).astype(np.float32)),
            discounts=torch.from_numpy((0.99 * rng.integers(0, 2, B)).astype(np.float32)),
            weights=torch.from_numpy(rng.uniform(0.2, 1, B).astype(np.float32)),
        )

    def batch(self, drawn: Frames, encoder: CurlSacAgent | None = None) -> Batch:
        """Return the batch as frames, or as latents of `encoder`."""

        def values(frames: torch.Tensor) -> Array:
            return frames.numpy() if encoder is None else encoder.encode(frames.numpy()).numpy()

        def observations(frames: torch.Tensor) -> ArrayObservations:
            return self.replay.of(values(frames))

        return Batch(
            observations=observations(drawn.observations),
            actions=drawn.actions.numpy(),
            returns=drawn.returns.numpy(),
            discounts=drawn.discounts.numpy(),
            next_observations=observations(drawn.next_observations),
            weights=drawn.weights.numpy(),
            row_ids=np.arange(B),
            positives=observations(drawn.other_view),
        )


def make_agent(
    settings: SacSettings = SETTINGS, *, frozen_layers: int | None = None, seed: int = 0, **changes: Any
) -> CurlSacAgent:
    spec = dataclasses.replace(SPEC, frozen_layers=frozen_layers)
    return CurlSacAgent(spec, HEADS, dataclasses.replace(settings, **changes), seed=seed)


def weights_of(agent: CurlSacAgent) -> dict[str, torch.Tensor]:
    weights = {name: p.detach().clone() for name, p in agent.networks.named_parameters(remove_duplicate=False)}
    return {**weights, "log_temperature": agent.log_temperature.detach().clone()}


def learn(agent: CurlSacAgent, world: World, count: int, *, from_latents: bool = False) -> list[float]:
    return [agent.update(world.batch(world.draw(), agent if from_latents else None)).loss for _ in range(count)]


def changed(before: dict[str, torch.Tensor], agent: CurlSacAgent) -> set[str]:
    after = weights_of(agent)
    return {name for name in after if not torch.equal(before[name], after[name])}
