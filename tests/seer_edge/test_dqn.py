"""DQN: its update against a naive one in plain torch, its schedule, its sizes, and its state."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from seer_edge.agents.dqn import DqnAgent
from seer_edge.config.algorithms.dqn import DqnNetworks
from seer_edge.config.presets.dqn import DQN_DEFAULT, DqnSettings
from seer_edge.networks.dqn import DqnHeadSpec, dqn_graph
from seer_edge.networks.spec import encoder_spec
from seer_runtime.onnx.head import OnnxHead
from seer_runtime.replay.replay import Batch
from seer_runtime.system.ledger import Ledger
from seer_runtime.system.state import State
from tests.seer_edge.observations import ArrayObservations, SliceBuffer

Arrays = dict[str, NDArray[Any]]

ROWS = 6
SETTINGS = DqnSettings(
    hidden=7, target_update_steps=1_000, exploration_steps=100, learning_rate=1e-3, max_gradient_norm=1.5
)
ENCODER = encoder_spec("data-efficient", input_shape=(4, 25, 30))
HEAD = DqnHeadSpec(ENCODER.latent_size, SETTINGS.hidden, actions=4)


def make_agent(seed: int = 0, *, frozen_layers: int | None = None, **settings: Any) -> DqnAgent:
    """An agent with weights large enough that actions differ, and a target network of other weights."""
    encoder = dataclasses.replace(ENCODER, frozen_layers=frozen_layers)
    agent = DqnAgent(encoder, HEAD, dataclasses.replace(SETTINGS, **settings), seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for module in (agent.encoder, agent.head, agent.target_encoder, agent.target_head):
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 2 * parameter.std())
    return agent


def make_batch(seed: int, *, latents: bool = False, returns_scale: float = 2.0) -> Batch:
    """Random windows. One row in three is terminated."""
    rng = np.random.default_rng(seed)
    buffer = SliceBuffer(2)

    def observations() -> ArrayObservations:
        if latents:
            return buffer.of(rng.random((ROWS, *ENCODER.latent_shape), np.float32))
        return buffer.of(rng.integers(0, 256, (ROWS, *ENCODER.input_shape), np.uint8))

    return Batch(
        observations=observations(),
        actions=rng.integers(0, HEAD.actions, ROWS, np.int32),
        returns=rng.normal(0, returns_scale, ROWS).astype(np.float32),
        discounts=np.where(np.arange(ROWS) % 3 == 1, 0, 0.99 ** rng.integers(1, 4, ROWS)).astype(np.float32),
        next_observations=observations(),
        weights=rng.random(ROWS, np.float32),
        row_ids=np.arange(ROWS),
    )


def weights_of(agent: DqnAgent) -> Arrays:
    return {name: array.copy() for name, array in agent.state().arrays.items()}


def learn(agent: DqnAgent, updates: int, *, seed: int = 0) -> list[float]:
    """Act and update as the loop does. Return the losses."""
    losses = []
    for index in range(updates):
        batch = make_batch(seed + index, latents=agent.frozen)
        agent.act(batch.observations.array[0], index)
        losses.append(agent.update(batch).loss)
    return losses


# --- the naive version: one row at a time, in float64 ------------------------------------------


def _naive_q(weights: dict[str, torch.Tensor], network: str, observation: NDArray[Any]) -> torch.Tensor:
    hidden = torch.from_numpy(observation).double()
    if observation.dtype == np.uint8:
        hidden = hidden / 255
        for index, conv in enumerate(ENCODER.layers):
            name = f"{network}encoder.convs.{index}"
            hidden = functional.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], conv.stride).relu()
    hidden = hidden.flatten()
    hidden = (weights[f"{network}head.hidden.weight"] @ hidden + weights[f"{network}head.hidden.bias"]).relu()
    return weights[f"{network}head.values.weight"] @ hidden + weights[f"{network}head.values.bias"]


@dataclasses.dataclass(frozen=True)
class Naive:
    """One update by the naive version."""

    loss: float
    errors: list[float]  # absolute, of each row
    gradients: Arrays  # clipped
    norm: float  # of the gradients before clipping


def _naive_update(arrays: Arrays, batch: Batch, settings: DqnSettings = SETTINGS) -> Naive:
    weights = {
        name: torch.from_numpy(array).double()
        for name, array in arrays.items()
        if name.startswith(("encoder.", "head.", "target_"))
    }
    frozen = batch.observations.array.dtype == np.float32
    trained = {name: tensor for name, tensor in weights.items() if name.startswith("head.")}
    trained |= {name: tensor for name, tensor in weights.items() if name.startswith("encoder.") and not frozen}
    for tensor in trained.values():
        tensor.requires_grad_()
    total, errors = torch.zeros((), dtype=torch.float64), []
    for row in range(ROWS):
        following = batch.next_observations.array[row]
        with torch.no_grad():
            best = _naive_q(weights, "", following).argmax()
            following_value = float(_naive_q(weights, "target_", following)[best])
        target = float(batch.returns[row]) + float(batch.discounts[row]) * following_value
        error = (_naive_q(weights, "", batch.observations.array[row])[int(batch.actions[row])] - target).abs()
        errors.append(float(error.detach()))
        total = total + float(batch.weights[row]) * (error**2 / 2 if errors[-1] < 1 else error - 0.5) / ROWS
    gradients = torch.autograd.grad(total, trained.values())
    norm = float(np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients)))
    scale = min(1.0, settings.max_gradient_norm / norm)
    clipped = {name: (scale * gradient).numpy() for name, gradient in zip(trained, gradients, strict=True)}
    return Naive(float(total.detach()), errors, clipped, norm)


CASES = [(seed, latents, scale) for seed in range(3) for latents in (False, True) for scale in (0.3, 30.0)]


@pytest.mark.parametrize(("seed", "latents", "returns_scale"), CASES)
def test_update_is_the_naive_one(seed: int, latents: bool, returns_scale: float) -> None:
    agent, batch = make_agent(seed), make_batch(seed, latents=latents, returns_scale=returns_scale)
    if latents:
        agent.freeze_encoder(reads_latents=True)
    agent.refresh()
    before = weights_of(agent)
    naive = _naive_update(before, batch)
    result = agent.update(batch)
    assert result.loss == pytest.approx(naive.loss, rel=1e-5)
    np.testing.assert_allclose(result.priorities, naive.errors, rtol=1e-4, atol=1e-5)
    assert result.priorities.dtype == np.float32
    assert agent.optimizer.parameters.keys() == naive.gradients.keys()
    after = weights_of(agent)
    copies = {name: torch.nn.Parameter(torch.from_numpy(before[name].copy())) for name in naive.gradients}
    for name, parameter in agent.optimizer.parameters.items():
        assert parameter.grad is not None
        gradient = naive.gradients[name]
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
        copies[name].grad = parameter.grad.clone()
    torch.optim.Adam(copies.values(), lr=SETTINGS.learning_rate, eps=1e-8).step()
    for name, copied in copies.items():
        np.testing.assert_allclose(after[name], copied.detach().numpy(), rtol=1e-6, atol=1e-9, err_msg=name)
    for name in {name for name in before if name.startswith(("encoder.", "target_"))} - naive.gradients.keys():
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_the_naive_comparison_covers_both_parts_of_the_loss_clipping_and_both_networks() -> None:
    updates = [
        _naive_update(weights_of(make_agent(seed)), make_batch(seed, latents=latents, returns_scale=scale))
        for seed, latents, scale in CASES
    ]
    errors = [error for update in updates for error in update.errors]
    assert min(errors) < 1 < max(errors)
    norms = [update.norm for update in updates]
    assert min(norms) < SETTINGS.max_gradient_norm < max(norms)
    agent, batch = make_agent(0), make_batch(0)
    online = weights_of(agent)
    agent.update_target()
    assert _naive_update(online, batch).loss != _naive_update(weights_of(agent), batch).loss


@pytest.mark.parametrize("frozen_layers", [1, 2])
def test_an_update_behind_the_cut_is_the_update_from_frames(frozen_layers: int) -> None:
    pixel, frozen = (make_agent(3, frozen_layers=frozen_layers) for _ in range(2))
    for agent in (pixel, frozen):
        agent.update_target()
    frozen.freeze_encoder(reads_latents=True)
    frames, buffer = make_batch(3), SliceBuffer(3)
    latents = dataclasses.replace(
        frames,
        observations=buffer.of(pixel.encode(frames.observations.array).numpy()),
        next_observations=buffer.of(pixel.encode(frames.next_observations.array).numpy()),
    )
    one, other = pixel.update(frames), frozen.update(latents)
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    np.testing.assert_allclose(one.priorities, other.priorities, rtol=1e-5)
    assert all(parameter.grad is None for parameter in frozen.encoder.frozen_parameters().values())


# --- exploring ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "first", "last"), [(100, 1.0, 0.05), (1, 0.7, 0.2), (50_000, 1.0, 0.0)])
def test_epsilon_falls_in_a_line_and_stays(steps: int, first: float, last: float) -> None:
    settings = DqnSettings(exploration_steps=steps, exploration_initial_eps=first, exploration_final_eps=last)
    for timestep in (0, 1, steps // 3, steps // 2, steps - 1, steps, steps + 1, 10 * steps):
        wanted = first + (last - first) * min(timestep / steps, 1)
        assert settings.epsilon(timestep) == pytest.approx(wanted, abs=1e-12), timestep
    assert settings.epsilon(steps) == last
    assert DqnSettings(exploration_steps=0).epsilon(0) == 0.05


@pytest.mark.parametrize("total", [10, 20_000, 500_000])
def test_the_schedule_is_a_fraction_of_the_run(total: int) -> None:
    settings = DqnSettings(exploration_fraction=0.3).for_run(total)
    assert settings.exploration_steps == round(0.3 * total)
    assert settings.epsilon(settings.exploration_steps) == 0.05
    assert DqnSettings(exploration_steps=7).for_run(total).exploration_steps == 7
    with pytest.raises(ValueError, match="call for_run first"):
        DqnSettings().epsilon(0)


@pytest.mark.integration
def test_exploring_takes_random_actions_as_often_as_epsilon_says() -> None:
    agent, observation = make_agent(), make_batch(0).observations.array[0]
    best = agent.greedy(observation)
    for timestep, epsilon in ((0, 1.0), (50, 0.525), (1_000, 0.05)):
        actions = np.array([agent.act(observation, timestep) for _ in range(4_000)])
        others = (actions != best).mean()
        assert others == pytest.approx(epsilon * 3 / 4, abs=4 * np.sqrt(0.25 / 4_000)), timestep
        if timestep == 0:
            shares = np.bincount(actions, minlength=4) / len(actions)
            np.testing.assert_allclose(shares, 0.25, atol=0.03)
    assert {agent.greedy(observation) for _ in range(5)} == {best}


def test_exploring_draws_its_numbers_in_refresh_alone() -> None:
    agent, observation = make_agent(), make_batch(0).observations.array[0]
    agent.refresh()
    before = weights_of(agent)["generator"]
    assert len({agent.explore(observation, 0) for _ in range(5)}) == 1
    agent.refresh(new_noise=False)
    np.testing.assert_array_equal(weights_of(agent)["generator"], before)
    agent.refresh()
    assert not np.array_equal(weights_of(agent)["generator"], before)


@pytest.mark.parametrize("frozen", [False, True])
def test_acting_during_an_update_uses_the_networks_of_the_last_refresh(frozen: bool) -> None:
    updated, still = (make_agent(6, learning_rate=1e-1, exploration_final_eps=0.0) for _ in range(2))
    batch, following = make_batch(6, latents=frozen), make_batch(7, latents=frozen)
    for agent in (updated, still):
        agent.act_beside_updates()
        if frozen:
            agent.freeze_encoder(reads_latents=True)
        agent.refresh()
    updated.update(batch)
    for observation in following.observations.array:
        assert updated.explore(observation, 10**6) == still.explore(observation, 10**6)
    assert torch.equal(updated.prepare(following).target_values, still.prepare(following).target_values)
    updated.refresh()
    chosen = [[agent.explore(o, 10**6) for o in following.observations.array] for agent in (updated, still)]
    assert chosen[0] != chosen[1]


# --- target, freeze, state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_the_target_is_copied_every_so_many_updates(every: int) -> None:
    agent = make_agent(target_update_steps=every)
    wanted = {name: array for name, array in weights_of(agent).items() if name.startswith("target_")}
    for update in range(1, 7):
        learn(agent, 1, seed=update)
        online = weights_of(agent)
        agent.refresh()
        if update % every == 0:
            wanted = {name: online[name.removeprefix("target_")] for name in wanted}
        for name, array in wanted.items():
            np.testing.assert_array_equal(weights_of(agent)[name], array, err_msg=name)


def test_freezing_ties_the_target_drops_the_encoders_moments_and_stops_its_training() -> None:
    agent = make_agent(target_update_steps=2)
    learn(agent, 5)
    agent.freeze_encoder(reads_latents=True)
    before = weights_of(agent)
    assert not any(name.startswith("optimizer.") and "encoder" in name for name in before)
    learn(agent, 5)
    after = weights_of(agent)
    for name, array in before.items():
        if "encoder." in name:
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        elif name.startswith("head."):
            assert not np.array_equal(after[name], array), name
    for name in ENCODER.weight_shapes:
        np.testing.assert_array_equal(after[f"target_encoder.{name}"], after[f"encoder.{name}"], err_msg=name)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_restored_agent_continues_to_the_bit(frozen: bool) -> None:
    agent, restored = make_agent(1, target_update_steps=4), make_agent(2, target_update_steps=4)
    learn(agent, 6)
    if frozen:
        agent.freeze_encoder(reads_latents=True)
        restored.freeze_encoder(reads_latents=True)
    restored.restore(State(agent.state().values, weights_of(agent)))
    assert learn(agent, 9, seed=60) == learn(restored, 9, seed=60)
    ours, theirs = weights_of(agent), weights_of(restored)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


# --- sizes, graph, preset ----------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_agent() -> None:
    agent, networks = make_agent(), DqnNetworks(ENCODER, HEAD)
    assert networks.parameters == sum(tensor.numel() for tensor in agent.optimizer.parameters.values())
    assert HEAD.parameters == sum(parameter.numel() for parameter in agent.head.parameters())
    arrays = weights_of(agent)
    for name, shape in networks.head_shapes.items():
        assert arrays[name].shape == shape
    graph = networks.policy_graph(SETTINGS, arrays)
    assert 0 < len(graph) - 4 * networks.policy_parameters < 1_000
    flops = networks.flops(batch_size=3, augmentations=1, frame_capacity=10, latent_replay=True)
    assert flops.head == HEAD.hidden * HEAD.latent_size + HEAD.hidden * HEAD.actions == HEAD.multiply_adds
    assert flops.after_freeze < flops.before_freeze


@pytest.mark.parametrize("seed", range(3))
def test_the_graph_gives_the_agents_q_values(seed: int) -> None:
    agent = make_agent(seed)
    agent.freeze_encoder(reads_latents=True)
    arrays = {n.removeprefix("head."): a for n, a in weights_of(agent).items() if n.startswith("head.")}
    graph = dqn_graph(HEAD, arrays)
    assert graph == dqn_graph(HEAD, arrays)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    head, rng, chosen = OnnxHead(graph, threads=1, ledger=Ledger({})), np.random.default_rng(seed), set()
    for _ in range(30):
        latents = rng.random(ENCODER.latent_shape, np.float32)
        got = head(latents).copy()
        np.testing.assert_allclose(got, agent.outputs(torch.from_numpy(latents[None])).numpy()[0], rtol=1e-4, atol=1e-4)
        assert int(got.argmax()) == agent.greedy(latents)
        chosen.add(int(got.argmax()))
    assert len(chosen) > 1
    del arrays["values.bias"]
    with pytest.raises(ValueError, match=r"DQN's head needs a float32 weight values\.bias of shape \[4\]"):
        dqn_graph(HEAD, arrays)


def test_the_preset_has_the_defaults_of_stable_baselines_3() -> None:
    dqn = DQN_DEFAULT.settings
    assert isinstance(dqn, DqnSettings)
    assert (dqn.learning_rate, dqn.batch_size, dqn.gamma, dqn.n_step, dqn.max_gradient_norm) == (1e-4, 32, 0.99, 1, 10)
    assert (dqn.exploration_initial_eps, dqn.exploration_final_eps, dqn.exploration_fraction) == (1.0, 0.05, 0.1)
    assert dqn.target_update_steps == 10_000 // 4
    assert (dqn.hidden, dqn.stack, dqn.reward_clip) == (512, 4, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exploration_final_eps": 1.5}, "exploration_final_eps must be in"),
        ({"exploration_steps": -1}, "exploration_steps must be at least 0, not -1"),
        ({"target_update_steps": 0}, "target_update_steps must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, not nan"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
        ({"stack": 65}, "stack must be at most 64, not 65"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DqnSettings(**given)


LEARN = """
    import json, sys
    from tests.seer_edge.test_dqn import learn, make_agent
    agent = make_agent()
    learn(agent, 2)
    agent.freeze_encoder(reads_latents=True)
    learn(agent, 2)
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
