"""What a step of the loop passes on, and when it learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.envs import Discrete, EnvSpec, Step
from seer_edge.envs.games import play
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError, RunStoppedError
from seer_edge.training.evaluate import evaluate_session
from seer_runtime.policy.perception import Observed
from tests.seer_edge.freeze_rig import Arrays, Rig


@pytest.mark.parametrize("pipeline", [False, True])
def test_learning_begins_after_learning_starts_and_not_before(rig: Callable[..., Rig], pipeline: bool) -> None:
    """Under the pipeline a step learns from the batch of the step before it."""
    run = rig(learning_starts=90, pipeline=pipeline)
    losses = [run.session.step().loss for _ in range(95)]
    first = 90 + pipeline
    assert [loss is not None for loss in losses] == [False] * first + [True] * (95 - first)
    assert run.session.agent.updates == 95 - first
    assert (run.session.catch_up() is not None) == pipeline
    assert run.session.agent.updates == 5
    assert run.session.catch_up() is None


def test_sampling_is_told_how_much_of_the_run_is_over(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    run = rig(learning_starts=90)
    seen: list[float] = []
    sample = run.session.replay.sample
    monkeypatch.setattr(
        run.session.replay, "sample", lambda progress, **given: seen.append(progress) or sample(progress, **given)
    )
    for _ in range(95):
        run.session.step()
    total = run.plan.config.total_timesteps
    assert seen == [step / (total - 90) for step in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(rig: Callable[..., Rig], pipeline: bool) -> None:
    run = rig(learning_starts=90, pipeline=pipeline)
    for _ in range(90 + pipeline):
        run.session.step()
    agent = run.session.agent
    head = agent.head if isinstance(agent, RainbowAgent) else agent.critic.qs
    next(iter(head.parameters())).data.fill_(float("nan"))
    with pytest.raises(RunStoppedError, match=f"the loss at step {91 + pipeline} is nan"):
        run.session.step()


# --- the pipeline ------------------------------------------------------------------------------------------


class Inline:
    """In place of the thread: the job is done when it is waited for."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self.due: list[Callable[[], UpdateResult]] = []

    def begin(self, job: Callable[[], UpdateResult]) -> None:
        result = job() if self.at_once else None
        self.due = [job if result is None else lambda: result]

    def wait(self) -> UpdateResult:
        return self.due.pop()()


def _arrays(run: Rig) -> Arrays:
    return {
        f"{part}.{name}": array.copy()
        for part, state in run.session.parts().items()
        if state is not None
        for name, array in state.arrays.items()
    }


@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_what_is_learned_does_not_depend_on_timing(rig: Callable[..., Rig], replay: str) -> None:
    """Beside the environment, all before it or all after it: the ring wraps, and the freeze comes on the way."""
    beside, before, after = (
        rig(learning_starts=20, replay=replay, latent_codec="uint8", pipeline=True) for _ in range(3)
    )
    before.session._learner = Inline(at_once=True)  # type: ignore[assignment]
    after.session._learner = Inline(at_once=False)  # type: ignore[assignment]
    losses = []
    for run in (beside, before, after):
        losses.append([run.session.step().loss for _ in range(110)])
        run.freeze()
        losses[-1] += [run.session.step().loss for _ in range(90)]
    assert losses[0] == losses[1] == losses[2]
    wanted = _arrays(before)
    assert "waiting.row_ids" in wanted
    for run in (beside, after):
        got = _arrays(run)
        assert got.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_the_pipeline_is_one_step_behind_and_no_more(rig: Callable[..., Rig]) -> None:
    """Until the first update shows in an action both do the same; and each learns from what it drew."""
    behind, plain = (rig(learning_starts=90, pipeline=pipeline) for pipeline in (True, False))
    for run in (behind, plain):
        run.steps(91)
    drawn = behind.session._waiting
    assert drawn is not None
    assert behind.session.agent.updates == 0
    for got, wanted in zip(behind.env.rows(), plain.env.rows(), strict=True):
        np.testing.assert_array_equal(got[0].frames[got[1]], wanted[0].frames[wanted[1]])
    behind.session.catch_up()
    for name, array in plain.session.agent.state().arrays.items():
        np.testing.assert_array_equal(behind.session.agent.state().arrays[name], array, err_msg=name)


def test_a_waiting_batch_reads_the_rows_that_it_drew(rig: Callable[..., Rig]) -> None:
    """However many rows one step appends: what the ring overwrites meanwhile was not drawn."""
    run = rig(learning_starts=20, pipeline=True)
    run.steps(80)
    for _ in range(200):
        drawn = run.session._waiting
        assert drawn is not None
        observations = drawn.batch.observations
        wanted = [piece.copy() for piece in observations.slices()]
        run.session._interact()
        for piece, want in zip(observations.slices(), wanted, strict=True):
            np.testing.assert_array_equal(piece, want)
        run.session._waiting = run.session._draw()


def test_an_environment_that_fails_beside_an_update_leaves_it_whole(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, settled = rig(learning_starts=20, pipeline=True), rig(learning_starts=20, pipeline=True)
    for run in (failing, settled):
        run.steps(40)

    def fail(action: Any) -> Step:
        raise EnvironmentFailedError("it fell over")

    monkeypatch.setattr(failing.session.env, "step", fail)
    with pytest.raises(EnvironmentFailedError):
        failing.session.step()
    settled.session.agent.refresh()
    settled.session.catch_up()
    got, wanted = (run.session.parts() for run in (failing, settled))
    assert got["waiting"] is wanted["waiting"] is None
    assert got["agent"] is not None
    assert wanted["agent"] is not None
    for name, array in wanted["agent"].arrays.items():
        if name != "generator" or failing.plan.config.algo == "rainbow":
            np.testing.assert_array_equal(got["agent"].arrays[name], array, err_msg=name)


class Still:
    """Frames of zeros, three actions, no end; remembers what was done."""

    spec = EnvSpec("Still-v0", "Still", (4, 4), (4, 4), Discrete(3))
    new_scene = True

    def __init__(self, reward: float = 0.0) -> None:
        self.actions: list[int] = []
        self.reward = reward

    def reset(self) -> Any:
        return np.zeros((4, 4), np.uint8)

    def step(self, action: int) -> Step:
        self.actions.append(action)
        return Step(self.reset(), self.reward, False, False, None)

    def close(self) -> None: ...


class Whole:
    """Perceives a frame as it is."""

    def observe(self, frame: Any, *, first: bool) -> Observed:
        return Observed(frame, frame)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_evaluation_explores_with_epsilon(epsilon: float) -> None:
    env, steps = Still(), 6_000
    games = play(env, Whole(), lambda observed: 2, epsilon=epsilon, rng=np.random.default_rng(0))
    for _ in range(steps):
        next(games)
    share = np.bincount(env.actions, minlength=3) / steps
    np.testing.assert_allclose(share, [epsilon / 3, epsilon / 3, 1 - 2 * epsilon / 3], atol=0.02)


def test_evaluation_uses_the_settings_epsilon(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = rig(), []

    def evaluate(*unused: Any, **given: Any) -> None:
        seen.append((given["epsilon"], given["episodes"]))

    monkeypatch.setattr("seer_edge.training.evaluate.evaluate", evaluate)
    evaluate_session(run.plan, run.session, lambda: False, lambda count: None)
    assert seen == [(run.plan.config.settings.evaluation_epsilon, run.plan.config.eval_episodes)]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_are_the_environments_failure(reward: float) -> None:
    with pytest.raises(EnvironmentFailedError, match="a reward of"):
        Guarded(Still(reward)).step(0)
