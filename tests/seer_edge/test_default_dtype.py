"""Learning does not depend on torch's default dtype, which an environment may change while an update runs."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.agent import Agent
from seer_edge.agents.dqn import DqnAgent
from seer_runtime.replay.replay import Batch
from tests.seer_edge import curl_sac_rig, rainbow_rig, test_dqn

Batches = Callable[[Agent, bool], Batch]


def _rainbow() -> tuple[Agent, Batches]:
    return rainbow_rig.new_agent(), lambda agent, latents: rainbow_rig.random_batch(1, latents=latents)


def _dqn() -> tuple[Agent, Batches]:
    agent = DqnAgent(test_dqn.ENCODER, test_dqn.HEAD, test_dqn.SETTINGS, seed=0)
    return agent, lambda agent, latents: test_dqn.make_batch(1, latents=latents)


def _curl_sac() -> tuple[Agent, Batches]:
    world = curl_sac_rig.World()
    settings = curl_sac_rig.SETTINGS
    agent = curl_sac_rig.make_agent(settings, actor_update_steps=1, target_update_steps=1)

    def batch(agent: Any, latents: bool) -> Batch:
        return world.batch(world.draw(), agent if latents else None)

    return agent, batch


MAKERS = {"rainbow": _rainbow, "dqn": _dqn, "curl-sac": _curl_sac}


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def learn(make: Callable[[], tuple[Agent, Batches]]) -> dict[str, Any]:
    """Return the weights and actions of an agent after updates before and after the freeze."""
    agent, batch = make()
    agent.act_beside_updates()
    results: list[Any] = []
    for latents in (False, True):
        if latents:
            agent.freeze_encoder(reads_latents=True)
        for _ in range(2):
            agent.refresh()
            drawn = batch(agent, latents)
            observation = next(iter(drawn.observations.slices()))[0]
            results.append(agent.explore(observation.copy(), 1_000))
            results.append(agent.greedy(observation.copy()))
            result = agent.update(drawn, agent.prepare(drawn))
            results += [result.loss, result.priorities]
    results.append(agent.outputs(torch.from_numpy(observation[None])).numpy())
    return {**agent.state().arrays, **{f"result {i}": np.asarray(result) for i, result in enumerate(results)}}


@pytest.mark.parametrize("algo", MAKERS)
def test_updates_are_the_same_under_another_default_dtype(
    algo: str, default_dtype: Callable[[torch.dtype], None]
) -> None:
    expected = learn(MAKERS[algo])
    default_dtype(torch.float64)
    found = learn(MAKERS[algo])
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name
