"""The CURL + SAC agent against a slow one, before and after each kind of freeze."""

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
from numpy.typing import NDArray

from seer_edge.agents.curl_sac import ACTOR, CRITIC, CurlSacAgent
from seer_edge.config.presets import SacSettings
from seer_edge.networks.sac_spec import SacHeadSpec
from seer_edge.networks.spec import Conv, EncoderSpec
from seer_runtime.replay.replay import Batch
from seer_runtime.system.state import State
from tests.seer_edge.naive_curl_sac import Frames, NaiveCurlSac
from tests.seer_edge.observations import ArrayObservations, SliceBuffer

SPEC = EncoderSpec("tiny", (Conv(4, 3, 2), Conv(3, 3)), (2, 9, 9), networks=2, features=5)
HEADS = SacHeadSpec(features=5, hidden=16, actions=2)
SETTINGS = SacSettings(batch_size=8, hidden=16, features=5, alpha_learning_rate=1e-3)
B = SETTINGS.batch_size
Array = NDArray[Any]


class World:
    """Minibatches, the same for every world of one seed, as an agent gets them and as the slow agent does."""

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
        """As frames, or as latents of `encoder`."""

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


# --- the freeze --------------------------------------------------------------------------------------------


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


def test_outputs_hold_the_qs_of_the_mean_actions() -> None:
    agent, world = make_agent(), World()
    learn(agent, world, 3)
    frames = world.frames()
    with torch.no_grad():
        both = agent.encoder(torch.from_numpy(frames))
        actions = torch.from_numpy(np.stack([agent.greedy(frame) for frame in frames]))
        qs = agent.critic(both[:, CRITIC], actions)
    torch.testing.assert_close(agent.outputs(agent.encode(frames))[:, HEADS.actions :], qs.T, rtol=1e-5, atol=1e-6)


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


def test_equal_seeds_give_equal_runs_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    agents = [make_agent(seed=seed) for seed in (7, 7, 8)]
    losses = [learn(agent, World(), 3) for agent in agents]
    actions = [agent.act(World().frames()[0]).tolist() for agent in agents]
    assert losses[0] == losses[1] != losses[2]
    assert actions[0] == actions[1] != actions[2]
    assert torch.equal(torch.get_rng_state(), before)


# --- state -------------------------------------------------------------------------------------------------


def copied(agent: CurlSacAgent) -> State:
    state = agent.state()
    return State(state.values, {name: array.copy() for name, array in state.arrays.items()})


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


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"networks": 1}, {"features": 6}, {"networks": 1, "features": None}])
def test_an_encoder_that_does_not_fit_the_heads_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="latents of 2 networks and 5 features, not of"):
        CurlSacAgent(dataclasses.replace(SPEC, **changes), HEADS, SETTINGS, seed=0)


def test_latents_are_refused_before_the_freeze() -> None:
    agent, world = make_agent(), World()
    with pytest.raises(TypeError, match="uint8"):
        agent.update(world.batch(world.draw(), encoder=agent))


LEARN = """
    import json, sys
    from tests.seer_edge.test_curl_sac import World, learn, make_agent
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
