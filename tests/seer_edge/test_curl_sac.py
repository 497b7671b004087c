"""The updates and actions of the CURL + SAC agent, compared with a slow agent before and after each kind of freeze."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.curl_sac import ACTOR, CRITIC, CurlSacAgent
from tests.seer_edge.curl_sac_rig import HEADS, SETTINGS, SPEC, B, World, changed, learn, make_agent, weights_of
from tests.seer_edge.naive_curl_sac import NaiveCurlSac

# --- against the slow agent --------------------------------------------------------------------------------


def same_weights(agent: CurlSacAgent, naive: NaiveCurlSac) -> None:
    for name, weight in weights_of(agent).items():
        torch.testing.assert_close(weight, naive.weights[name].detach().float(), rtol=1e-5, atol=1e-5, msg=name)


def side_by_side(agent: CurlSacAgent, naive: NaiveCurlSac, world: World, count: int, *, from_latents: bool) -> None:
    for _ in range(count):
        drawn = world.draw()
        result = agent.update(world.batch(drawn, agent if from_latents else None))
        loss, priorities = naive.update(drawn)
        assert result.loss == pytest.approx(loss, rel=1e-4)
        assert result.priorities.dtype == np.float32
        np.testing.assert_allclose(result.priorities, priorities.numpy(), rtol=1e-3, atol=1e-5)
        same_weights(agent, naive)


@pytest.mark.parametrize(
    ("actor_steps", "target_steps", "contrastive"),
    [
        *((1, 1, True), (2, 3, True), (2, 2, False)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 2, True), (1, 1, False), (2, 3, False))),
    ],
)
def test_updates_are_those_of_the_slow_agent(contrastive: bool, actor_steps: int, target_steps: int) -> None:
    agent = make_agent(contrastive=contrastive, actor_update_steps=actor_steps, target_update_steps=target_steps)
    naive, before = NaiveCurlSac(agent), weights_of(agent)
    side_by_side(agent, naive, World(), 6, from_latents=False)
    assert changed(before, agent) == before.keys()  # so no compared weight is unchanged
    assert contrastive == any(name.startswith("bilinear") for name in before)


@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize("reads_latents", [True, False])
@pytest.mark.parametrize("frozen_layers", [None, 1, 2])
def test_frozen_updates_are_those_of_the_slow_agent(
    frozen_layers: int | None, reads_latents: bool, contrastive: bool
) -> None:
    agent = make_agent(frozen_layers=frozen_layers, contrastive=contrastive)
    naive, world = NaiveCurlSac(agent), World()
    side_by_side(agent, naive, world, 3, from_latents=False)
    frozen = {f"encoder.{name}" for name in agent.encoder.frozen_parameters()}
    if frozen_layers is None:
        frozen |= {f"{head}.norm.{kind}" for head in ("actor", "critic") for kind in ("weight", "bias")}
    agent.freeze_encoder(reads_latents=reads_latents)
    naive.freeze(frozen, whole=frozen_layers is None)
    same_weights(agent, naive)
    before = weights_of(agent)
    side_by_side(agent, naive, world, 5, from_latents=reads_latents)
    still = frozen | {name for name in before if name.removeprefix("target_") in frozen}
    assert changed(before, agent) == before.keys() - still


@pytest.mark.parametrize("slice_size", [1, 4, 5, B])
def test_the_size_of_slices_changes_nothing(slice_size: int) -> None:
    one, other = make_agent(), make_agent()
    losses = learn(one, World(slice_size=3), 4), learn(other, World(slice_size=slice_size), 4)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weights_of(other)[name], weight, rtol=1e-5, atol=1e-5, msg=name)


# --- gradients ---------------------------------------------------------------------------------------------


def test_the_actors_loss_reaches_its_own_fc_and_head_only() -> None:
    with_actor = make_agent(contrastive=False, actor_update_steps=1)
    without_actor = make_agent(contrastive=False, actor_update_steps=1_000)
    for agent in (with_actor, without_actor):
        learn(agent, World(), 1)
    actors = {name for name in weights_of(with_actor) if name.startswith((f"encoder.fcs.{ACTOR}", "actor."))}
    assert changed(weights_of(without_actor), with_actor) == actors | {"log_temperature"}


def test_the_critics_loss_trains_the_convolutions_and_not_the_actors_fc() -> None:
    agent = make_agent(contrastive=False, actor_update_steps=1_000, target_update_steps=1_000)
    before = weights_of(agent)
    learn(agent, World(), 1)
    prefixes = "encoder.convs.", f"encoder.fcs.{CRITIC}.", "critic."
    assert changed(before, agent) == {name for name in before if name.startswith(prefixes)}


@pytest.mark.parametrize("trunk_gradient", [True, False])
def test_only_the_critics_latents_carry_a_gradient_to_the_trunk(trunk_gradient: bool) -> None:
    agent, world = make_agent(), World()
    inputs = agent._inputs(world.batch(world.draw()).observations)
    networks = (agent.encoder, CRITIC), (agent.encoder, ACTOR)
    for (_, network), latents in zip(
        networks, agent._latents(inputs, *networks, trunk_gradient=trunk_gradient), strict=True
    ):
        agent.encoder.zero_grad()
        latents.sum().backward()
        reached = {name for name, parameter in agent.encoder.named_parameters() if parameter.grad is not None}
        trunk = {name for name in SPEC.weight_shapes if name.startswith("convs.")}
        fc = {f"fcs.{network}.weight", f"fcs.{network}.bias"}
        assert reached == (fc | trunk if network == CRITIC and trunk_gradient else fc)


@pytest.mark.parametrize("contrastive", [True, False])
def test_no_unused_gradient_is_computed(contrastive: bool) -> None:
    agent = make_agent(contrastive=contrastive, actor_update_steps=1)
    computed: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(gradient: torch.Tensor) -> None:
            computed[name] = computed.get(name, 0) + 1

        return hook

    for name, parameter in agent.networks.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(count(name))
    learn(agent, World(), 1)
    twice = ("encoder.convs.", f"encoder.fcs.{CRITIC}.", "critic.norm.") if contrastive else ()
    names = [name for name, parameter in agent.networks.named_parameters() if parameter.requires_grad]
    assert computed == {name: 2 if name.startswith(twice) else 1 for name in names}
    assert all(parameter.grad is None for parameter in agent.networks.parameters())


def test_targets_follow_as_in_the_closed_form() -> None:
    agent = make_agent(learning_rate=0.0, alpha_learning_rate=0.0, target_tau=0.1, encoder_tau=0.3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for target in (agent.target_encoder, agent.target_critic):
            for parameter in target.parameters():
                parameter.normal_(generator=generator)
    before = weights_of(agent)
    learn(agent, World(), 7)
    moves = 7 // SETTINGS.target_update_steps
    assert changed(before, agent) == {name for name in before if name.startswith("target_")}
    for name in changed(before, agent):
        left = (1 - (0.1 if ".qs." in name else 0.3)) ** moves
        online = before[name.removeprefix("target_")]
        expected = online + left * (before[name] - online)
        torch.testing.assert_close(weights_of(agent)[name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_targets_start_as_the_online_networks() -> None:
    weights = weights_of(make_agent())
    targets = [name for name in weights if name.startswith("target_")]
    assert {name.removeprefix("target_") for name in targets} == {
        name for name in weights if name.startswith(("encoder.", "critic.")) and not name.startswith("encoder.fcs.1")
    }
    assert all(torch.equal(weights[name], weights[name.removeprefix("target_")]) for name in targets)


# --- acting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
def test_actions_are_those_of_the_policy(frozen: bool) -> None:
    agent, world = make_agent(), World()
    observations = world.frames()
    if frozen:
        observations = agent.encode(observations).numpy()
        agent.freeze_encoder(reads_latents=True)
    drawn = np.stack([agent.act(observations[0]) for _ in range(4_000)])
    assert drawn.dtype == np.float32
    assert drawn.shape[1:] == (HEADS.actions,)
    assert np.abs(drawn).max() <= 1
    with torch.no_grad():
        mean, log_std = agent.actor(agent._observe(observations[0], agent.encoder, ACTOR))
    u = np.arctanh(drawn.astype(np.float64))
    std = log_std.exp()[0].numpy()
    np.testing.assert_allclose((u.mean(axis=0) - mean[0].numpy()) / std, 0, atol=5 / np.sqrt(len(u)))
    np.testing.assert_allclose(u.std(axis=0) / std, 1, atol=5 / np.sqrt(2 * len(u)))
    np.testing.assert_allclose(agent.greedy(observations[0]), torch.tanh(mean)[0].numpy(), rtol=1e-6)


def test_outputs_hold_the_qs_of_the_mean_actions() -> None:
    agent, world = make_agent(), World()
    learn(agent, world, 3)
    frames = world.frames()
    with torch.no_grad():
        both = agent.encoder(torch.from_numpy(frames))
        actions = torch.from_numpy(np.stack([agent.greedy(frame) for frame in frames]))
        qs = agent.critic(both[:, CRITIC], actions)
    torch.testing.assert_close(agent.outputs(agent.encode(frames))[:, HEADS.actions :], qs.T, rtol=1e-5, atol=1e-6)


# --- refusals and imports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"networks": 1}, {"features": 6}, {"networks": 1, "features": None}])
def test_an_encoder_that_does_not_fit_the_heads_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="latents of 2 networks and 5 features, not of"):
        CurlSacAgent(dataclasses.replace(SPEC, **changes), HEADS, SETTINGS, seed=0)


LEARN = """
    import json, sys
    from tests.seer_edge.curl_sac_rig import World, learn, make_agent
    agent, world = make_agent(), World()
    learn(agent, world, 2)
    agent.freeze_encoder(reads_latents=True)
    learn(agent, world, 2, from_latents=True)
    print(json.dumps([agent.updates, sorted(sys.modules)]))
"""


@pytest.mark.slow
def test_learning_does_not_import_the_compiler_stack() -> None:
    command = [sys.executable, "-c", textwrap.dedent(LEARN)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=root)
    updates, loaded = json.loads(done.stdout)
    assert updates == 4
    heavy = ("torch._dynamo", "torch._inductor", "sympy")
    assert "torch" in loaded
    assert [name for name in loaded if name in heavy or name.startswith(tuple(f"{name}." for name in heavy))] == []
