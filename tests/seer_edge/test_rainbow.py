"""Rainbow's update against a slow version in numpy and one by autograd; the freeze and checkpoints of the agent."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.agents.rainbow_reference import reference_update
from seer_edge.config.presets import RainbowSettings
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
from seer_runtime.replay.replay import Batch
from seer_runtime.system.state import State
from tests.seer_edge.observations import ArrayObservations, SliceBuffer

Arrays = dict[str, NDArray[Any]]
Real = NDArray[np.float64]

SETTINGS = RainbowSettings(
    batch_size=5, hidden=6, atoms=11, value_range=(-4.0, 4.0), noisy_sigma=0.5, target_update_steps=1_000
)
ENCODER = encoder_spec("data-efficient", input_shape=(4, 25, 30))
HEAD = RainbowHeadSpec(ENCODER.latent_size, SETTINGS.hidden, actions=4, atoms=SETTINGS.atoms)
ATOMS = np.linspace(-4.0, 4.0, 11)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _agent(seed: int = 0, *, frozen_layers: int | None = None, **settings: Any) -> RainbowAgent:
    encoder = replace(ENCODER, frozen_layers=frozen_layers)
    return RainbowAgent(encoder, HEAD, replace(SETTINGS, **settings), seed=seed)


def _agent_with_opinions(seed: int = 0, **settings: Any) -> RainbowAgent:
    """Weights large enough that actions differ, and a target network of its own."""
    agent = _agent(seed, **settings)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for module in (agent.encoder, agent.head, agent.target_encoder, agent.target_head):
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 2 * parameter.std())
    return agent


def _batch(seed: int, *, latents: bool = False, weights: float | None = None) -> Batch:
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


def _copy(agent: RainbowAgent) -> Arrays:
    return {name: array.copy() for name, array in agent.state().arrays.items()}


def _assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def _train(agent: RainbowAgent, updates: int, *, seed: int = 0) -> list[UpdateResult]:
    """Act and update as the loop does."""
    results = []
    for index in range(updates):
        batch = _batch(seed + index, latents=agent.frozen)
        agent.act(batch.observations.array[0])
        results.append(agent.update(batch))
    return results


# --- the slow version --------------------------------------------------------------------------------------


def _slow_latents(arrays: Arrays, encoder: str, stacks: NDArray[np.uint8]) -> Real:
    latents = []
    for stack in stacks:
        hidden = stack.astype(np.float64) / 255
        for index, conv in enumerate(ENCODER.layers):
            kernel = arrays[f"{encoder}.convs.{index}.weight"].astype(np.float64)
            bias = arrays[f"{encoder}.convs.{index}.bias"].astype(np.float64)
            height, width = ((side - conv.kernel) // conv.stride + 1 for side in hidden.shape[1:])
            out = np.zeros((conv.filters, height, width))
            for y in range(height):
                for x in range(width):
                    top, left = y * conv.stride, x * conv.stride
                    patch = hidden[:, top : top + conv.kernel, left : left + conv.kernel]
                    out[:, y, x] = np.tensordot(kernel, patch, axes=3) + bias
            hidden = np.maximum(out, 0)
        latents.append(hidden.ravel())
    return np.array(latents)


def _slow_layer(arrays: Arrays, layer: str, noise: Arrays | None, stream: int, inputs: Real) -> Real:
    """One stream of a noisy layer on one row; `noise` holds the buffers, None is no noise."""
    weight, bias = arrays[f"{layer}.weight"].astype(np.float64), arrays[f"{layer}.bias"].astype(np.float64)
    outputs = len(weight) // (2 if layer.endswith("hidden") else 1)
    rows = slice(stream * outputs, (stream + 1) * outputs)
    if noise is None:
        return weight[rows] @ inputs + bias[rows]
    eps_in, eps_out = noise[f"{layer}.noise_in"][stream, 0], noise[f"{layer}.noise_out"][stream, :, 0]
    weight = weight[rows] + arrays[f"{layer}.weight_sigma"][rows] * np.outer(eps_out, eps_in)
    return weight @ inputs + bias[rows] + arrays[f"{layer}.bias_sigma"][rows] * eps_out


def _slow_log_probabilities(arrays: Arrays, head: str, latent: Real, noise: Arrays | None) -> Real:
    """`[actions, atoms]` of one row."""
    value_stream = np.maximum(_slow_layer(arrays, f"{head}.hidden", noise, 0, latent), 0)
    advantage_stream = np.maximum(_slow_layer(arrays, f"{head}.hidden", noise, 1, latent), 0)
    value = _slow_layer(arrays, f"{head}.value", noise, 0, value_stream)
    advantage = _slow_layer(arrays, f"{head}.advantage", noise, 0, advantage_stream).reshape(HEAD.actions, HEAD.atoms)
    logits = value + advantage - advantage.mean(axis=0)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _slow_projection(probabilities: Real, n_return: float, discount: float) -> Real:
    projected = np.zeros(HEAD.atoms)
    for probability, atom in zip(probabilities, ATOMS, strict=True):
        b = (min(max(n_return + discount * atom, ATOMS[0]), ATOMS[-1]) - ATOMS[0]) / (ATOMS[1] - ATOMS[0])
        lower = min(math.floor(b), HEAD.atoms - 2)
        projected[lower] += probability * (lower + 1 - b)
        projected[lower + 1] += probability * (b - lower)
    return projected


def _slow_choices(
    arrays: Arrays, encoder: str, head: str, noise: Arrays | None, stacks: NDArray[np.uint8]
) -> list[int]:
    latents = _slow_latents(arrays, encoder, stacks)
    return [int((np.exp(_slow_log_probabilities(arrays, head, z, noise)) @ ATOMS).argmax()) for z in latents]


def _slow_targets(arrays: Arrays, noise: Arrays, batch: Batch) -> list[Real]:
    """`arrays` as before the update, `noise` as it was drawn for it."""
    best = _slow_choices(arrays, "encoder", "head", noise, batch.next_observations.array)
    targets = []
    for row, latent in enumerate(_slow_latents(arrays, "target_encoder", batch.next_observations.array)):
        probabilities = np.exp(_slow_log_probabilities(arrays, "target_head", latent, noise)[best[row]])
        targets.append(_slow_projection(probabilities, float(batch.returns[row]), float(batch.discounts[row])))
    return targets


def _slow_losses(arrays: Arrays, noise: Arrays, batch: Batch, targets: list[Real]) -> list[float]:
    losses = []
    for row, latent in enumerate(_slow_latents(arrays, "encoder", batch.observations.array)):
        log_probabilities = _slow_log_probabilities(arrays, "head", latent, noise)[batch.actions[row]]
        losses.append(-sum(m * log_p for m, log_p in zip(targets[row], log_probabilities, strict=True)))
    return losses


@pytest.mark.parametrize("seed", range(4))
def test_update_is_the_slow_one(seed: int) -> None:
    agent, batch = _agent_with_opinions(seed), _batch(seed)
    action = agent.act(batch.observations.array[0])
    before = _copy(agent)
    assert [action] == _slow_choices(before, "encoder", "head", before, batch.observations.array[:1])

    result = agent.update(batch)
    noise = _copy(agent)  # drawn by `act`
    for name in (name for name in before if ".noise_" in name):
        np.testing.assert_array_equal(noise[name], before[name], err_msg=name)
    targets = _slow_targets(before, noise, batch)
    losses = _slow_losses(before, noise, batch, targets)
    np.testing.assert_allclose(result.priorities, losses, rtol=2e-5)
    assert result.priorities.dtype == np.float32
    loss = sum(weight * loss for weight, loss in zip(batch.weights, losses, strict=True)) / len(losses)
    assert result.loss == pytest.approx(loss, rel=2e-5)


def test_the_slow_comparison_can_tell_the_networks_apart() -> None:
    """Over the rows compared above, another rule of choice would have chosen other actions."""
    chosen: dict[str, list[int]] = {"double": [], "no noise": [], "target": [], "other noise": []}
    for seed in range(4):
        agent, stacks = _agent_with_opinions(seed), _batch(seed).next_observations.array
        agent.act(stacks[0])
        arrays = _copy(agent)
        agent.act(stacks[0])
        chosen["double"] += _slow_choices(arrays, "encoder", "head", arrays, stacks)
        chosen["no noise"] += _slow_choices(arrays, "encoder", "head", None, stacks)
        chosen["target"] += _slow_choices(arrays, "target_encoder", "target_head", None, stacks)
        chosen["other noise"] += _slow_choices(arrays, "encoder", "head", _copy(agent), stacks)
    assert len({tuple(choices) for choices in chosen.values()}) == 4


def test_gradients_are_finite_differences_of_the_slow_loss() -> None:
    agent, batch = _agent_with_opinions(7), _batch(7)
    agent.act(batch.observations.array[0])
    before = _copy(agent)
    agent.update(batch)
    noise = _copy(agent)
    targets = _slow_targets(before, noise, batch)
    assert _gradient_norm(agent) < SETTINGS.max_gradient_norm  # so nothing was clipped

    def loss(arrays: Arrays) -> float:
        return float(np.mean(np.array(_slow_losses(arrays, noise, batch, targets)) * batch.weights))

    exact = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in before.items()}
    for name, parameter in agent.optimizer.parameters.items():
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        slopes = []
        for step in (1e-6, -1e-6):
            moved = {**exact, name: exact[name].copy()}
            moved[name][index] += step
            slopes.append(loss(moved) / 2e-6)
        assert gradient[index] == pytest.approx(slopes[0] - slopes[1], rel=1e-3), name
        assert gradient[index] != 0, name


def _gradients(agent: RainbowAgent) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in agent.optimizer.parameters.items()
        if parameter.grad is not None
    }


def _gradient_norm(agent: RainbowAgent) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in _gradients(agent).values()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frozen", [None, 1, 2])
def test_update_is_the_one_of_autograd(seed: int, frozen: int | None) -> None:
    """Losses, every gradient and every weight after the step, from frames, behind a cut and from latents."""
    by_hand, by_autograd = (_agent_with_opinions(seed, frozen_layers=frozen) for _ in range(2))
    batch = _batch(seed, latents=frozen == 2)
    results = []
    for agent, update in ((by_hand, by_hand.update), (by_autograd, lambda b: reference_update(by_autograd, b))):
        if frozen is not None:
            agent.freeze_encoder(reads_latents=frozen == 2)
        agent.act(batch.observations.array[0])
        results.append(update(batch))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    np.testing.assert_allclose(results[0].priorities, results[1].priorities, rtol=1e-5)
    wanted = _gradients(by_autograd)
    assert len(wanted) == {None: 16, 1: 14, 2: 12}[frozen]
    for name, gradient in _gradients(by_hand).items():
        torch.testing.assert_close(gradient, wanted.pop(name), rtol=1e-4, atol=1e-6)
    assert not wanted
    after = _copy(by_autograd)
    for name, array in _copy(by_hand).items():
        np.testing.assert_allclose(array, after[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_gradients_are_clipped_to_a_norm_of_ten_and_then_adam_steps() -> None:
    plain, clipped = _agent_with_opinions(3), _agent_with_opinions(3)
    for agent, weight in ((plain, 1.0), (clipped, 1e3)):
        batch = _batch(3, weights=weight)
        agent.act(batch.observations.array[0])
        agent.update(batch)
    norm = _gradient_norm(plain)
    assert norm < 10 < 1e3 * norm
    assert _gradient_norm(clipped) == pytest.approx(10, rel=1e-4)
    gradients, start = _gradients(clipped), _agent_with_opinions(3).optimizer.parameters
    for name, gradient in _gradients(plain).items():
        torch.testing.assert_close(gradients[name], gradient * (10 / norm), rtol=1e-3, atol=1e-7)
    torch_adam = torch.optim.Adam(start.values(), lr=SETTINGS.learning_rate, eps=SETTINGS.adam_epsilon, fused=True)
    for name, parameter in start.items():
        parameter.grad = gradients[name]
    torch_adam.step()
    assert all(torch.equal(clipped.optimizer.parameters[name], parameter) for name, parameter in start.items())


@pytest.mark.parametrize("frozen", [False, True])
def test_what_runs_beside_an_update_does_not_see_it(frozen: bool) -> None:
    """Actions and what is prepared are those of the networks at the last `refresh`."""
    agents = [_agent_with_opinions(6, learning_rate=1e-1) for _ in range(2)]
    observations, following = _batch(6, latents=frozen), _batch(7, latents=frozen)
    for agent in agents:
        agent.act_beside_updates()
        if frozen:
            agent.freeze_encoder(reads_latents=True)
        agent.refresh()
    updated, still = agents
    updated.update(observations)
    for observation in following.observations.array:
        assert updated.explore(observation, 0) == still.explore(observation, 0)
        assert updated._values(observation, updated._weights, updated.acting_encoder).tolist() == (
            still._values(observation, still._weights, still.acting_encoder).tolist()
        )
    for got, wanted in zip(updated.prepare(following)[1:], still.prepare(following)[1:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))
    updated.refresh()
    still.refresh()
    observation = following.observations.array[0]
    assert not torch.equal(
        updated._values(observation, updated._weights, updated.acting_encoder),
        still._values(observation, still._weights, still.acting_encoder),
    )


def test_rows_count_by_their_weight() -> None:
    """The loss is the weighted mean of the rows; their priorities are not weighted."""
    batch = _batch(5, weights=1.0)
    alone = np.zeros(SETTINGS.batch_size, np.float32)
    alone[2] = 1
    agents = [_agent_with_opinions(5) for _ in range(2)]
    results = []
    for agent, weights in zip(agents, (batch.weights, alone), strict=True):
        agent.act(batch.observations.array[0])
        results.append(agent.update(replace(batch, weights=weights)))
    np.testing.assert_array_equal(results[0].priorities, results[1].priorities)
    assert results[0].loss == pytest.approx(results[0].priorities.mean())
    assert results[1].loss == pytest.approx(results[0].priorities[2] / SETTINGS.batch_size)


# --- acting ------------------------------------------------------------------------------------------------


def test_acting_draws_new_noise_and_greedy_ignores_it() -> None:
    agent, observation = _agent_with_opinions(), _batch(0).observations.array[0]
    before = _copy(agent)
    greedy = agent.greedy(observation)
    _assert_same(_copy(agent), before)
    assert [greedy] == _slow_choices(before, "encoder", "head", None, observation[None])
    actions = [agent.act(observation) for _ in range(30)]
    assert len(set(actions)) > 1
    assert {agent.greedy(observation) for _ in range(5)} == {greedy}


def test_outputs_are_expectations_without_noise() -> None:
    agent, stacks = _agent_with_opinions(), _batch(0).observations.array
    arrays = _copy(agent)
    latents = agent.encode(stacks)
    assert latents.shape == (len(stacks), *ENCODER.latent_shape)
    assert not latents.requires_grad
    wanted = [
        np.exp(_slow_log_probabilities(arrays, "head", z, None)) @ ATOMS
        for z in _slow_latents(arrays, "encoder", stacks)
    ]
    np.testing.assert_allclose(agent.outputs(latents).numpy(), wanted, atol=1e-4)


# --- the target network ------------------------------------------------------------------------------------


def _online_and_target(agent: RainbowAgent) -> tuple[Arrays, Arrays]:
    arrays = {name: array for name, array in _copy(agent).items() if ".noise_" not in name}
    online = {name: array for name, array in arrays.items() if name.startswith(("encoder.", "head."))}
    return online, {name: arrays[f"target_{name}"] for name in online}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_target_is_copied_every_so_many_updates(every: int, frozen: bool) -> None:
    agent = _agent(target_update_steps=every)
    if frozen:
        agent.freeze_encoder(reads_latents=True)
    wanted = _online_and_target(agent)[0]
    for update in range(1, 8):
        _train(agent, 1, seed=update)
        online = _online_and_target(agent)[0]
        agent.refresh()
        target = _online_and_target(agent)[1]
        if update % every == 0:
            wanted = online
        _assert_same(target, wanted)
        assert any(not np.array_equal(online[name], target[name]) for name in online) == (update % every != 0)


def test_target_parameters_get_no_gradient() -> None:
    agent = _agent()
    _train(agent, 2)
    for module in (agent.target_encoder, agent.target_head):
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())


# --- one update path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frozen_layers", [1, 2])
@pytest.mark.parametrize("reads_latents", [True, False])
def test_an_update_behind_the_cut_is_the_update_from_frames(seed: int, frozen_layers: int, reads_latents: bool) -> None:
    pixel, frozen = (_agent(seed, frozen_layers=frozen_layers) for _ in range(2))
    for agent in (pixel, frozen):
        _train(agent, 3, seed=40)
        agent.update_target()
    frozen.freeze_encoder(reads_latents=reads_latents)
    frames, replay = _batch(seed), SliceBuffer(3)
    batch = frames
    if reads_latents:
        batch = replace(
            frames,
            observations=replay.of(pixel.encode(frames.observations.array).numpy()),
            next_observations=replay.of(pixel.encode(frames.next_observations.array).numpy()),
        )
    assert pixel.act(frames.observations.array[0]) == frozen.act(batch.observations.array[0])
    results = pixel.update(frames), frozen.update(batch)
    assert _gradient_norm(pixel) < 10  # the frozen part's share of the norm would scale the others' otherwise
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    np.testing.assert_allclose(results[0].priorities, results[1].priorities, rtol=1e-6)
    wanted = _gradients(pixel)
    trained = ("head.",) if frozen_layers == 2 else ("head.", "encoder.convs.1.")
    assert _gradients(frozen).keys() == {name for name in wanted if name.startswith(trained)}
    for name, gradient in _gradients(frozen).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["act", "greedy", "update"])
@pytest.mark.parametrize("frozen", [False, True])
def test_input_kind_is_not_guessed_from_the_shape(method: str, frozen: bool) -> None:
    """A latent agent does not encode frames, not even flat ones of a latent's width; a pixel agent needs frames."""
    agent = _agent()
    if frozen:
        agent.freeze_encoder(reads_latents=True)
    flat = SliceBuffer(2).of(np.zeros((SETTINGS.batch_size, *ENCODER.latent_shape), np.uint8))
    right, wrong = _batch(0, latents=frozen), [_batch(0, latents=not frozen).observations, flat]

    def use(observations: ArrayObservations) -> Any:
        if method == "update":
            return agent.update(replace(right, observations=observations, next_observations=observations))
        return getattr(agent, method)(observations.array[0])

    for observations in wrong:
        before = _copy(agent)
        with pytest.raises((RuntimeError, TypeError), match=r"uint8|dtype|shape|rank 4|conv2d|matrix|Expected size"):
            use(observations)
        parameters = {name for name in before if ".noise_" not in name and name != "generator"}
        _assert_same({name: _copy(agent)[name] for name in parameters}, {name: before[name] for name in parameters})
    use(right.observations)


# --- the freeze --------------------------------------------------------------------------------------------


def test_freezing_ties_the_target_and_keeps_the_heads_moments() -> None:
    agent = _agent()
    _train(agent, 5)
    before = _copy(agent)
    agent.freeze_encoder(reads_latents=True)
    assert agent.frozen
    assert agent.reads_latents
    for own, online in zip(agent.target_encoder.parameters(), agent.encoder.parameters(), strict=True):
        assert own is online
        assert own.grad is None
        assert not own.requires_grad
    assert all(name.startswith("head.") for name in agent.optimizer.parameters)
    after = _copy(agent)
    dropped = {name for name in before if name.startswith("optimizer.") and ".encoder." in name}
    assert len(dropped) == 3 * len(list(agent.encoder.parameters()))
    assert after.keys() == before.keys() - dropped
    tied = {name: before[name.removeprefix("target_")] for name in after if name.startswith("target_encoder.")}
    _assert_same(after, {**{name: before[name] for name in after}, **tied})
    assert any(before[name].any() for name in after if name.startswith("optimizer.first.head."))


def test_a_frozen_encoder_never_changes() -> None:
    agent = _agent(target_update_steps=4)
    _train(agent, 5)
    agent.freeze_encoder(reads_latents=True)
    before = _copy(agent)
    _train(agent, 20)
    after = _copy(agent)
    for name, array in before.items():
        if name.startswith(("encoder.", "target_encoder.")):
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        elif name.startswith("head."):
            assert not np.array_equal(after[name], array), name
    assert {name.split(".")[0] for name in _gradients(agent)} == {"head"}
    assert all(parameter.grad is None for parameter in agent.encoder.parameters())


def test_encoder_weights_are_copies() -> None:
    agent = _agent()
    weights = agent.encoder_weights()
    before = {name: array.copy() for name, array in weights.items()}
    _train(agent, 3)
    _assert_same(weights, before)
    now = agent.encoder_weights()
    assert {name: array.shape for name, array in now.items()} == ENCODER.weight_shapes
    assert not any(np.array_equal(now[name], before[name]) for name in now)
    np.testing.assert_array_equal(now["convs.0.weight"], agent.encoder.convs[0].weight.detach().numpy())


# --- seeds and state ---------------------------------------------------------------------------------------


def _freeze_midway(agent: RainbowAgent) -> None:
    _train(agent, 10)
    agent.freeze_encoder(reads_latents=True)
    _train(agent, 10, seed=10)


@pytest.mark.parametrize("run", [lambda agent: _train(agent, 20), _freeze_midway])
def test_a_seed_is_a_run(run: Callable[[RainbowAgent], Any]) -> None:
    agents = [_agent(seed, target_update_steps=7) for seed in (3, 3, 4)]
    for agent in agents:
        torch.rand(1)  # what others draw from the global generator must not matter
        run(agent)
    _assert_same(_copy(agents[0]), _copy(agents[1]))
    assert not np.array_equal(_copy(agents[0])["head.value.weight"], _copy(agents[2])["head.value.weight"])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_loaded_agent_goes_on_to_the_bit(frozen: bool) -> None:
    agent, loaded = _agent(1, target_update_steps=4), _agent(2, target_update_steps=4)
    _train(agent, 6)
    if frozen:
        agent.freeze_encoder(reads_latents=True)
        loaded.freeze_encoder(reads_latents=True)
    arrays = _copy(agent)
    loaded.restore(State(agent.state().values, arrays))
    _assert_same(_copy(loaded), arrays)
    results = [_train(each, 10, seed=60) for each in (agent, loaded)]
    assert [result.loss for result in results[0]] == [result.loss for result in results[1]]
    _assert_same(_copy(loaded), _copy(agent))
