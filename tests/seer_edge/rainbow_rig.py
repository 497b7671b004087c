"""Small Rainbow agents and random batches for the tests of Rainbow and of its naive version."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.config.presets import RainbowSettings
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
from seer_runtime.replay.replay import Batch
from tests.seer_edge.observations import ArrayObservations, SliceBuffer

Arrays = dict[str, NDArray[Any]]
Real = NDArray[np.float64]

SETTINGS = RainbowSettings(
    batch_size=5, hidden=6, atoms=11, value_range=(-4.0, 4.0), noisy_sigma=0.5, target_update_steps=1_000
)
ENCODER = encoder_spec("data-efficient", input_shape=(4, 25, 30))
HEAD = RainbowHeadSpec(ENCODER.latent_size, SETTINGS.hidden, actions=4, atoms=SETTINGS.atoms)
ATOMS = np.linspace(-4.0, 4.0, 11)


def new_agent(seed: int = 0, *, frozen_layers: int | None = None, **settings: Any) -> RainbowAgent:
    encoder = replace(ENCODER, frozen_layers=frozen_layers)
    return RainbowAgent(encoder, HEAD, replace(SETTINGS, **settings), seed=seed)


def agent_with_opinions(seed: int = 0, **settings: Any) -> RainbowAgent:
    """Return an agent with weights large enough that actions differ, and other weights in its target network."""
    agent = new_agent(seed, **settings)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for module in (agent.encoder, agent.head, agent.target_encoder, agent.target_head):
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 2 * parameter.std())
    return agent


def random_batch(seed: int, *, latents: bool = False, weights: float | None = None) -> Batch:
    """Random windows, one row in three of them terminated."""
    rng = np.random.default_rng(seed)
    count = SETTINGS.batch_size
    replay = SliceBuffer(2)

    def observations() -> ArrayObservations:
        if latents:
            return replay.of(rng.random((count, *ENCODER.latent_shape), np.float32))
        return replay.of(rng.integers(0, 256, (count, *ENCODER.input_shape), np.uint8))

    steps = rng.integers(1, 21, count)
    terminated = np.arange(count) % 3 == 1
    return Batch(
        observations=observations(),
        actions=rng.integers(0, HEAD.actions, count, np.int32),
        returns=rng.normal(0, 2, count).astype(np.float32),
        discounts=np.where(terminated, 0, 0.99**steps).astype(np.float32),
        next_observations=observations(),
        weights=rng.random(count, np.float32) if weights is None else np.full(count, weights, np.float32),
        row_ids=np.arange(count),
    )


def copied(agent: RainbowAgent) -> Arrays:
    return {name: array.copy() for name, array in agent.state().arrays.items()}


def assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def train(agent: RainbowAgent, updates: int, *, seed: int = 0) -> list[UpdateResult]:
    """Act and update as the loop does."""
    results = []
    for index in range(updates):
        batch = random_batch(seed + index, latents=agent.frozen)
        agent.act(batch.observations.array[0])
        results.append(agent.update(batch))
    return results


def gradients_of(agent: RainbowAgent) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in agent.optimizer.parameters.items()
        if parameter.grad is not None
    }
