"""The freeze of a Rainbow agent, its seeds and its saved state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.agent import GENERATOR
from seer_edge.agents.rainbow import RainbowAgent
from seer_runtime.system.state import State, StateError
from tests.seer_edge.rainbow_rig import ENCODER, assert_same, copied, gradients_of, new_agent, train

# --- the freeze --------------------------------------------------------------------------------------------


def test_freezing_ties_the_target_and_keeps_the_heads_moments() -> None:
    agent = new_agent()
    train(agent, 5)
    before = copied(agent)
    agent.freeze_encoder(reads_latents=True)
    assert agent.frozen
    assert agent.reads_latents
    for own, online in zip(agent.target_encoder.parameters(), agent.encoder.parameters(), strict=True):
        assert own is online
        assert own.grad is None
        assert not own.requires_grad
    assert all(name.startswith("head.") for name in agent.optimizer.parameters)
    after = copied(agent)
    dropped = {name for name in before if name.startswith("optimizer.") and ".encoder." in name}
    assert len(dropped) == 3 * len(list(agent.encoder.parameters()))
    assert after.keys() == before.keys() - dropped
    tied = {name: before[name.removeprefix("target_")] for name in after if name.startswith("target_encoder.")}
    assert_same(after, {**{name: before[name] for name in after}, **tied})
    assert any(before[name].any() for name in after if name.startswith("optimizer.first.head."))


def test_a_frozen_encoder_never_changes() -> None:
    agent = new_agent(target_update_steps=4)
    train(agent, 5)
    agent.freeze_encoder(reads_latents=True)
    before = copied(agent)
    train(agent, 20)
    after = copied(agent)
    for name, array in before.items():
        if name.startswith(("encoder.", "target_encoder.")):
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        elif name.startswith("head."):
            assert not np.array_equal(after[name], array), name
    assert {name.split(".")[0] for name in gradients_of(agent)} == {"head"}
    assert all(parameter.grad is None for parameter in agent.encoder.parameters())


def test_encoder_weights_are_copies() -> None:
    agent = new_agent()
    weights = agent.encoder_weights()
    before = {name: array.copy() for name, array in weights.items()}
    train(agent, 3)
    assert_same(weights, before)
    now = agent.encoder_weights()
    assert {name: array.shape for name, array in now.items()} == ENCODER.weight_shapes
    assert not any(np.array_equal(now[name], before[name]) for name in now)
    np.testing.assert_array_equal(now["convs.0.weight"], agent.encoder.convs[0].weight.detach().numpy())


# --- seeds and state ---------------------------------------------------------------------------------------


def _freeze_midway(agent: RainbowAgent) -> None:
    train(agent, 10)
    agent.freeze_encoder(reads_latents=True)
    train(agent, 10, seed=10)


@pytest.mark.parametrize("run", [lambda agent: train(agent, 20), _freeze_midway])
def test_equal_seeds_give_equal_runs(run: Callable[[RainbowAgent], Any]) -> None:
    agents = [new_agent(seed, target_update_steps=7) for seed in (3, 3, 4)]
    for agent in agents:
        torch.rand(1)  # draws of others from the global generator must not matter
        run(agent)
    assert_same(copied(agents[0]), copied(agents[1]))
    assert not np.array_equal(copied(agents[0])["head.value.weight"], copied(agents[2])["head.value.weight"])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_loaded_agent_continues_bit_for_bit(frozen: bool) -> None:
    agent, loaded = new_agent(1, target_update_steps=4), new_agent(2, target_update_steps=4)
    train(agent, 6)
    if frozen:
        agent.freeze_encoder(reads_latents=True)
        loaded.freeze_encoder(reads_latents=True)
    arrays = copied(agent)
    loaded.restore(State(agent.state().values, arrays))
    assert_same(copied(loaded), arrays)
    results = [train(each, 10, seed=60) for each in (agent, loaded)]
    assert [result.loss for result in results[0]] == [result.loss for result in results[1]]
    assert_same(copied(loaded), copied(agent))


def test_a_state_of_another_kind_of_device_seeds_a_new_stream() -> None:
    """The random stream of CUDA has a state of 16 bytes. It cannot continue here, but equal states give equal runs."""
    agents = [new_agent(seed, target_update_steps=4) for seed in (1, 2, 3)]
    arrays = copied(agents[0])
    for agent, stream in zip(agents, (1, 1, 2), strict=True):
        agent.restore(State({"updates": 0}, {**arrays, GENERATOR: np.full(16, stream, np.uint8)}))
        train(agent, 5)
    assert_same(copied(agents[0]), copied(agents[1]))
    assert not np.array_equal(copied(agents[0])["head.value.weight"], copied(agents[2])["head.value.weight"])
    with pytest.raises(StateError, match=GENERATOR):
        agents[0].restore(State({"updates": 0}, {**arrays, GENERATOR: np.zeros(17, np.uint8)}))
