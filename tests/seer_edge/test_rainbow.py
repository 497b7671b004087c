"""Rainbow's update against a naive version in numpy and one by autograd."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.agents.rainbow_reference import reference_update
from tests.seer_edge.naive_rainbow import (
    naive_choices,
    naive_latents,
    naive_log_probabilities,
    naive_losses,
    naive_targets,
)
from tests.seer_edge.observations import ArrayObservations, SliceBuffer
from tests.seer_edge.rainbow_rig import (
    ATOMS,
    ENCODER,
    SETTINGS,
    Arrays,
    agent_with_opinions,
    assert_same,
    copied,
    gradients_of,
    new_agent,
    random_batch,
    train,
)


@pytest.mark.parametrize("seed", range(4))
def test_update_is_the_naive_one(seed: int) -> None:
    agent, batch = agent_with_opinions(seed), random_batch(seed)
    action = agent.act(batch.observations.array[0])
    before = copied(agent)
    assert [action] == naive_choices(before, "encoder", "head", before, batch.observations.array[:1])

    result = agent.update(batch)
    noise = copied(agent)  # drawn by `act`
    for name in (name for name in before if ".noise_" in name):
        np.testing.assert_array_equal(noise[name], before[name], err_msg=name)
    targets = naive_targets(before, noise, batch)
    losses = naive_losses(before, noise, batch, targets)
    np.testing.assert_allclose(result.priorities, losses, rtol=2e-5)
    assert result.priorities.dtype == np.float32
    loss = sum(weight * loss for weight, loss in zip(batch.weights, losses, strict=True)) / len(losses)
    assert result.loss == pytest.approx(loss, rel=2e-5)


def test_the_naive_comparison_distinguishes_the_networks() -> None:
    """On the rows compared above, every other rule would choose other actions."""
    chosen: dict[str, list[int]] = {"double": [], "no noise": [], "target": [], "other noise": []}
    for seed in range(4):
        agent, stacks = agent_with_opinions(seed), random_batch(seed).next_observations.array
        agent.act(stacks[0])
        arrays = copied(agent)
        agent.act(stacks[0])
        chosen["double"] += naive_choices(arrays, "encoder", "head", arrays, stacks)
        chosen["no noise"] += naive_choices(arrays, "encoder", "head", None, stacks)
        chosen["target"] += naive_choices(arrays, "target_encoder", "target_head", None, stacks)
        chosen["other noise"] += naive_choices(arrays, "encoder", "head", copied(agent), stacks)
    assert len({tuple(choices) for choices in chosen.values()}) == 4


def test_gradients_are_finite_differences_of_the_naive_loss() -> None:
    agent, batch = agent_with_opinions(7), random_batch(7)
    agent.act(batch.observations.array[0])
    before = copied(agent)
    agent.update(batch)
    noise = copied(agent)
    targets = naive_targets(before, noise, batch)
    assert _gradient_norm(agent) < SETTINGS.max_gradient_norm  # so nothing was clipped

    def loss(arrays: Arrays) -> float:
        return float(np.mean(np.array(naive_losses(arrays, noise, batch, targets)) * batch.weights))

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


def _gradient_norm(agent: RainbowAgent) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients_of(agent).values()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frozen", [None, 1, 2])
def test_update_is_the_one_of_autograd(seed: int, frozen: int | None) -> None:
    """Losses, every gradient and every weight after the step, from frames, behind a cut and from latents."""
    by_hand, by_autograd = (agent_with_opinions(seed, frozen_layers=frozen) for _ in range(2))
    batch = random_batch(seed, latents=frozen == 2)
    results = []
    for agent, update in ((by_hand, by_hand.update), (by_autograd, lambda b: reference_update(by_autograd, b))):
        if frozen is not None:
            agent.freeze_encoder(reads_latents=frozen == 2)
        agent.act(batch.observations.array[0])
        results.append(update(batch))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    np.testing.assert_allclose(results[0].priorities, results[1].priorities, rtol=1e-5)
    wanted = gradients_of(by_autograd)
    assert len(wanted) == {None: 16, 1: 14, 2: 12}[frozen]
    for name, gradient in gradients_of(by_hand).items():
        torch.testing.assert_close(gradient, wanted.pop(name), rtol=1e-4, atol=1e-6)
    assert not wanted
    after = copied(by_autograd)
    for name, array in copied(by_hand).items():
        np.testing.assert_allclose(array, after[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_gradients_are_clipped_to_a_norm_of_ten_and_then_adam_steps() -> None:
    plain, clipped = agent_with_opinions(3), agent_with_opinions(3)
    for agent, weight in ((plain, 1.0), (clipped, 1e3)):
        batch = random_batch(3, weights=weight)
        agent.act(batch.observations.array[0])
        agent.update(batch)
    norm = _gradient_norm(plain)
    assert norm < 10 < 1e3 * norm
    assert _gradient_norm(clipped) == pytest.approx(10, rel=1e-4)
    gradients, start = gradients_of(clipped), agent_with_opinions(3).optimizer.parameters
    for name, gradient in gradients_of(plain).items():
        torch.testing.assert_close(gradients[name], gradient * (10 / norm), rtol=1e-3, atol=1e-7)
    torch_adam = torch.optim.Adam(start.values(), lr=SETTINGS.learning_rate, eps=SETTINGS.adam_epsilon, fused=True)
    for name, parameter in start.items():
        parameter.grad = gradients[name]
    torch_adam.step()
    assert all(torch.equal(clipped.optimizer.parameters[name], parameter) for name, parameter in start.items())


@pytest.mark.parametrize("frozen", [False, True])
def test_acting_during_an_update_uses_the_networks_of_the_last_refresh(frozen: bool) -> None:
    """Actions and prepared targets are those of the networks at the last `refresh`."""
    agents = [agent_with_opinions(6, learning_rate=1e-1) for _ in range(2)]
    observations, following = random_batch(6, latents=frozen), random_batch(7, latents=frozen)
    for agent in agents:
        agent.act_beside_updates()
        if frozen:
            agent.freeze_encoder(reads_latents=True)
        agent.refresh()
    updated, still = agents
    updated.update(observations)
    for observation in following.observations.array:
        assert updated.explore(observation, 0) == still.explore(observation, 0)
        assert updated._values(observation, updated.weights, updated.acting_encoder).tolist() == (
            still._values(observation, still.weights, still.acting_encoder).tolist()
        )
    for got, wanted in zip(updated.prepare(following)[1:], still.prepare(following)[1:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))
    updated.refresh()
    still.refresh()
    observation = following.observations.array[0]
    assert not torch.equal(
        updated._values(observation, updated.weights, updated.acting_encoder),
        still._values(observation, still.weights, still.acting_encoder),
    )


def test_rows_count_by_their_weight() -> None:
    """The loss is the weighted mean of the rows; their priorities are not weighted."""
    batch = random_batch(5, weights=1.0)
    alone = np.zeros(SETTINGS.batch_size, np.float32)
    alone[2] = 1
    agents = [agent_with_opinions(5) for _ in range(2)]
    results = []
    for agent, weights in zip(agents, (batch.weights, alone), strict=True):
        agent.act(batch.observations.array[0])
        results.append(agent.update(replace(batch, weights=weights)))
    np.testing.assert_array_equal(results[0].priorities, results[1].priorities)
    assert results[0].loss == pytest.approx(results[0].priorities.mean())
    assert results[1].loss == pytest.approx(results[0].priorities[2] / SETTINGS.batch_size)


# --- acting ------------------------------------------------------------------------------------------------


def test_acting_draws_new_noise_and_greedy_ignores_it() -> None:
    agent, observation = agent_with_opinions(), random_batch(0).observations.array[0]
    before = copied(agent)
    greedy = agent.greedy(observation)
    assert_same(copied(agent), before)
    assert [greedy] == naive_choices(before, "encoder", "head", None, observation[None])
    actions = [agent.act(observation) for _ in range(30)]
    assert len(set(actions)) > 1
    assert {agent.greedy(observation) for _ in range(5)} == {greedy}


def test_outputs_are_expectations_without_noise() -> None:
    agent, stacks = agent_with_opinions(), random_batch(0).observations.array
    arrays = copied(agent)
    latents = agent.encode(stacks)
    assert latents.shape == (len(stacks), *ENCODER.latent_shape)
    assert not latents.requires_grad
    wanted = [
        np.exp(naive_log_probabilities(arrays, "head", z, None)) @ ATOMS
        for z in naive_latents(arrays, "encoder", stacks)
    ]
    np.testing.assert_allclose(agent.outputs(latents).numpy(), wanted, atol=1e-4)


# --- the target network ------------------------------------------------------------------------------------


def _online_and_target(agent: RainbowAgent) -> tuple[Arrays, Arrays]:
    arrays = {name: array for name, array in copied(agent).items() if ".noise_" not in name}
    online = {name: array for name, array in arrays.items() if name.startswith(("encoder.", "head."))}
    return online, {name: arrays[f"target_{name}"] for name in online}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_target_is_copied_every_so_many_updates(every: int, frozen: bool) -> None:
    agent = new_agent(target_update_steps=every)
    if frozen:
        agent.freeze_encoder(reads_latents=True)
    wanted = _online_and_target(agent)[0]
    for update in range(1, 8):
        train(agent, 1, seed=update)
        online = _online_and_target(agent)[0]
        agent.refresh()
        target = _online_and_target(agent)[1]
        if update % every == 0:
            wanted = online
        assert_same(target, wanted)
        assert any(not np.array_equal(online[name], target[name]) for name in online) == (update % every != 0)


def test_target_parameters_get_no_gradient() -> None:
    agent = new_agent()
    train(agent, 2)
    for module in (agent.target_encoder, agent.target_head):
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())


# --- one update path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frozen_layers", [1, 2])
@pytest.mark.parametrize("reads_latents", [True, False])
def test_an_update_behind_the_cut_is_the_update_from_frames(seed: int, frozen_layers: int, reads_latents: bool) -> None:
    pixel, frozen = (new_agent(seed, frozen_layers=frozen_layers) for _ in range(2))
    for agent in (pixel, frozen):
        train(agent, 3, seed=40)
        agent.update_target()
    frozen.freeze_encoder(reads_latents=reads_latents)
    frames, replay = random_batch(seed), SliceBuffer(3)
    batch = frames
    if reads_latents:
        batch = replace(
            frames,
            observations=replay.of(pixel.encode(frames.observations.array).numpy()),
            next_observations=replay.of(pixel.encode(frames.next_observations.array).numpy()),
        )
    assert pixel.act(frames.observations.array[0]) == frozen.act(batch.observations.array[0])
    results = pixel.update(frames), frozen.update(batch)
    assert _gradient_norm(pixel) < 10  # otherwise the frozen part's share of the norm would scale the other gradients
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    np.testing.assert_allclose(results[0].priorities, results[1].priorities, rtol=1e-6)
    wanted = gradients_of(pixel)
    trained = ("head.",) if frozen_layers == 2 else ("head.", "encoder.convs.1.")
    assert gradients_of(frozen).keys() == {name for name in wanted if name.startswith(trained)}
    for name, gradient in gradients_of(frozen).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["act", "greedy", "update"])
@pytest.mark.parametrize("frozen", [False, True])
def test_input_kind_is_not_guessed_from_the_shape(method: str, frozen: bool) -> None:
    """A latent agent does not encode frames, not even flat ones of a latent's width; a pixel agent needs frames."""
    agent = new_agent()
    if frozen:
        agent.freeze_encoder(reads_latents=True)
    flat = SliceBuffer(2).of(np.zeros((SETTINGS.batch_size, *ENCODER.latent_shape), np.uint8))
    right, wrong = random_batch(0, latents=frozen), [random_batch(0, latents=not frozen).observations, flat]

    def use(observations: ArrayObservations) -> Any:
        if method == "update":
            return agent.update(replace(right, observations=observations, next_observations=observations))
        return getattr(agent, method)(observations.array[0])

    for observations in wrong:
        before = copied(agent)
        with pytest.raises((RuntimeError, TypeError), match=r"uint8|dtype|shape|rank 4|conv2d|matrix|Expected size"):
            use(observations)
        parameters = {name for name in before if ".noise_" not in name and name != "generator"}
        assert_same({name: copied(agent)[name] for name in parameters}, {name: before[name] for name in parameters})
    use(right.observations)
