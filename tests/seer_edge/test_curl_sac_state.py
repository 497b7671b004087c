"""The freeze of a CURL + SAC agent, its seeds and its saved state."""

import numpy as np
import pytest
import torch

from seer_edge.agents.curl_sac import CurlSacAgent
from seer_runtime.system.state import State
from tests.seer_edge.curl_sac_rig import HEADS, SPEC, B, World, changed, learn, make_agent, weights_of


@pytest.mark.parametrize("frozen_layers", [None, 1, 2])
def test_actions_and_outputs_are_the_same_from_latents_and_frames(frozen_layers: int | None) -> None:
    agent, world = make_agent(frozen_layers=frozen_layers), World()
    learn(agent, world, 3)
    frames = world.frames()
    latents = agent.encode(frames)
    assert latents.shape == (B, *agent.encoder_spec.latent_shape)
    assert not latents.requires_grad
    actions = [agent.greedy(frame) for frame in frames]
    outputs = agent.outputs(latents)
    assert outputs.shape == (B, HEADS.actions + 2)
    np.testing.assert_allclose(outputs[:, : HEADS.actions].numpy(), actions, rtol=1e-5, atol=1e-6)
    agent.freeze_encoder(reads_latents=True)
    np.testing.assert_allclose([agent.greedy(latent) for latent in latents.numpy()], actions, rtol=1e-5, atol=1e-6)
    assert torch.equal(agent.outputs(latents), outputs)


@pytest.mark.parametrize("reads_latents", [True, False])
@pytest.mark.parametrize("frozen_layers", [None, 1, 2])
def test_frozen_parameters_are_in_no_optimizer_and_tied(frozen_layers: int | None, reads_latents: bool) -> None:
    agent, world = make_agent(frozen_layers=frozen_layers), World()
    learn(agent, world, 2)
    assert not agent.frozen
    moments = {name: tensor.clone() for name, tensor in agent.tensors() if name.startswith("optimizer.")}
    agent.freeze_encoder(reads_latents=reads_latents)
    assert (agent.frozen, agent.reads_latents) == (True, reads_latents)
    frozen = {f"encoder.{name}" for name in agent.encoder.frozen_parameters()}
    norms = {f"{head}.norm.{kind}" for head in ("actor", "critic") for kind in ("weight", "bias")}
    frozen |= norms if frozen_layers is None else set()
    trained = {name for optimizer in agent.optimizers.values() for name in optimizer.parameters}
    online = dict(agent.networks.named_parameters())
    for name in frozen:
        assert not online[name].requires_grad
        assert name not in trained
        if name.startswith(("critic", "encoder.convs", "encoder.fcs.0")):
            assert agent.networks.get_parameter(f"target_{name}") is online[name]
    assert trained == {name for name, p in online.items() if p.requires_grad} | {"log_temperature"}
    assert ("contrastive" in agent.optimizers) == (frozen_layers is not None)
    kept = {name: tensor for name, tensor in agent.tensors() if name.startswith("optimizer.")}
    assert all(torch.equal(tensor, moments[name]) for name, tensor in kept.items())


def test_encoder_weights_are_copies_by_name() -> None:
    agent = make_agent()
    weights = agent.encoder_weights()
    assert {name: array.shape for name, array in weights.items()} == SPEC.weight_shapes
    before = {name: array.copy() for name, array in weights.items()}
    learn(agent, World(), 2)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])
        assert not np.array_equal(array, agent.encoder_weights()[name])


def test_latents_are_refused_before_the_freeze() -> None:
    agent, world = make_agent(), World()
    with pytest.raises(TypeError, match="uint8"):
        agent.update(world.batch(world.draw(), encoder=agent))


def copied(agent: CurlSacAgent) -> State:
    state = agent.state()
    return State(state.values, {name: array.copy() for name, array in state.arrays.items()})


def test_equal_seeds_give_equal_runs_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    agents = [make_agent(seed=seed) for seed in (7, 7, 8)]
    losses = [learn(agent, World(), 3) for agent in agents]
    actions = [agent.act(World().frames()[0]).tolist() for agent in agents]
    assert losses[0] == losses[1] != losses[2]
    assert actions[0] == actions[1] != actions[2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize(
    ("frozen_layers", "reads_latents"), [(None, None), (None, True), (None, False), (1, True), (2, False)]
)
def test_a_loaded_agent_continues_bit_for_bit(
    frozen_layers: int | None, reads_latents: bool | None, contrastive: bool
) -> None:
    def fresh(seed: int) -> CurlSacAgent:
        return make_agent(frozen_layers=frozen_layers, seed=seed, contrastive=contrastive)

    def freeze(agent: CurlSacAgent) -> None:
        if reads_latents is not None:
            agent.freeze_encoder(reads_latents=reads_latents)

    agent, loaded, world = fresh(0), fresh(1), World()
    learn(agent, world, 3)
    freeze(agent)
    learn(agent, world, 2, from_latents=bool(reads_latents))
    saved = copied(agent)
    freeze(loaded)
    loaded.restore(saved)
    assert changed(weights_of(agent), loaded) == set()
    worlds = World(9), World(9)
    losses = [learn(a, w, 3, from_latents=bool(reads_latents)) for a, w in zip((agent, loaded), worlds, strict=True)]
    assert losses[0] == losses[1]
    assert changed(weights_of(agent), loaded) == set()
    for name, array in agent.state().arrays.items():
        np.testing.assert_array_equal(array, loaded.state().arrays[name], err_msg=name)


def test_the_state_of_another_agent_is_refused() -> None:
    agent, frozen = make_agent(), make_agent()
    frozen.freeze_encoder(reads_latents=True)
    before = weights_of(agent)
    for other in (frozen, make_agent(contrastive=False)):
        with pytest.raises(ValueError, match="the state is of another agent: "):
            agent.restore(other.state())
    assert changed(before, agent) == set()
