"""A step of a session: when it learns, from which batch, and its report. Exploration in evaluations."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge.training.run
from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.envs import Discrete, EnvSpec, Step
from seer_edge.envs.games import play
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError, RunStoppedError
from seer_edge.runs import checkpoint
from seer_edge.runs.run_folder import RunFolder
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.metrics import Console
from seer_edge.training.run import Run
from seer_edge.training.updates import PipelinedUpdates
from seer_runtime.policy.perception import Observed
from seer_runtime.replay.replay import NothingToSampleError
from seer_runtime.replay.store import FINAL
from seer_runtime.system.state import State
from tests.seer_edge.freeze_rig import CAPACITY, Arrays, Rig

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pipeline", [False, True])
def test_updates_start_after_learning_starts(rig: Callable[..., Rig], pipeline: bool) -> None:
    """With the pipeline a step learns from the batch of the step before."""
    run = rig(learning_starts=90, pipeline=pipeline)
    losses = [run.session.step().loss for _ in range(95)]
    first = 90 + pipeline
    assert [loss is not None for loss in losses] == [False] * first + [True] * (95 - first)
    assert run.session.agent.updates == 95 - first
    assert (run.session.flush_updates() is not None) == pipeline
    assert run.session.agent.updates == 5
    assert run.session.flush_updates() is None


@pytest.mark.parametrize("pipeline", [False, True])
def test_all_updates_run_on_one_thread(
    rig: Callable[..., Rig], pipeline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch keeps memory for each thread that makes updates, so a last one on another thread would cost it twice."""
    run = rig(learning_starts=90, pipeline=pipeline)
    update, threads = run.session.agent.update, []

    def watched(*arguments: Any) -> UpdateResult:
        threads.append(threading.get_ident())
        return update(*arguments)

    monkeypatch.setattr(run.session.agent, "update", watched)
    for _ in range(93):
        run.session.step()
    run.session.flush_updates()
    assert len(threads) == run.session.agent.updates == 3
    assert len(set(threads)) == 1
    assert (threads[0] == threading.get_ident()) is not pipeline


@pytest.mark.parametrize("pipeline", [False, True])
def test_learning_waits_for_the_first_window(rig: Callable[..., Rig], pipeline: bool) -> None:
    """A window of three steps begins at the first row once a fourth is stored."""
    run = rig(learning_starts=0, pipeline=pipeline)
    losses = [run.session.step().loss for _ in range(20)]
    first = 3 + pipeline
    assert [loss is not None for loss in losses] == [False] * first + [True] * (20 - first)


def test_a_replay_that_has_overwritten_rows_and_holds_no_window_stops_the_run(rig: Callable[..., Rig]) -> None:
    run = rig(learning_starts=0)
    for _ in range(CAPACITY + 1):
        run.session.step()
    run.session.replay.store.columns.flags[:] = FINAL
    with pytest.raises(NothingToSampleError):
        run.session.step()


def test_sampling_is_given_the_progress_of_the_run(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
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


class LateWorker:
    """Replaces the worker thread. Runs the job on the calling thread, as late as possible: when its result is read."""

    def start(self, job: Callable[[], UpdateResult]) -> None:
        self.job = job

    def result(self) -> UpdateResult:
        return self.job()


def _updates(run: Rig) -> PipelinedUpdates:
    updates = run.session.updates
    assert isinstance(updates, PipelinedUpdates)
    return updates


def _update_late(run: Rig) -> None:
    """Make each update begin when its result is read."""
    _updates(run)._worker = LateWorker()  # type: ignore[assignment]


def _update_early(run: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each update run as early as it may: up to its wait before the refresh, and to its end before the action."""
    updates, agent = _updates(run), run.session.agent
    waits, ended = threading.Event(), threading.Event()
    wait, refresh, start, update = updates._refreshed, agent.refresh, updates.start, agent.update

    def announced_wait() -> None:
        waits.set()
        wait()

    def late_refresh(**options: bool) -> None:
        if updates._running is not None:
            assert waits.wait(60), "the update does not wait for the refresh"
            waits.clear()
        refresh(**options)

    def announced_update(*args: Any) -> UpdateResult:
        try:
            return update(*args)
        finally:
            ended.set()

    def start_and_wait() -> None:
        start()
        if updates._running is not None:
            assert ended.wait(60)
            ended.clear()

    monkeypatch.setattr(updates, "_refreshed", announced_wait)
    monkeypatch.setattr(updates, "start", start_and_wait)
    monkeypatch.setattr(agent, "refresh", late_refresh)
    monkeypatch.setattr(agent, "update", announced_update)


def _parts(run: Rig) -> dict[str, State | None]:
    snapshot = run.session.snapshot()
    return {name: getattr(snapshot, name) for name in ("pending", "agent", "replay", "perception", "environment")}


def _arrays(run: Rig) -> Arrays:
    return {
        f"{part}.{name}": array.copy()
        for part, state in _parts(run).items()
        if state is not None
        for name, array in state.arrays.items()
    }


@pytest.mark.parametrize("replay", [pytest.param("uniform", marks=pytest.mark.slow), "prioritized"])
def test_updates_do_not_depend_on_timing(rig: Callable[..., Rig], replay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update runs during, before or after the environment's step. The ring wraps, and the run freezes midway."""
    during, before, after = (
        rig(learning_starts=50, replay=replay, latent_codec="uint8", pipeline=True) for _ in range(3)
    )
    _update_early(before, monkeypatch)
    _update_late(after)
    losses = []
    for run in (during, before, after):
        losses.append([run.session.step().loss for _ in range(80)])
        run.freeze()
        losses[-1] += [run.session.step().loss for _ in range(30)]
    assert losses[0] == losses[1] == losses[2]
    wanted = _arrays(before)
    assert "pending.row_ids" in wanted
    for run in (during, after):
        got = _arrays(run)
        assert got.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_the_pipeline_is_exactly_one_step_behind(rig: Callable[..., Rig]) -> None:
    """Until the first update changes an action, runs with and without the pipeline are equal."""
    behind, plain = (rig(learning_starts=90, pipeline=pipeline) for pipeline in (True, False))
    for run in (behind, plain):
        run.steps(91)
    assert behind.session.updates.pending is not None
    assert behind.session.agent.updates == 0
    for got, wanted in zip(behind.env.rows(), plain.env.rows(), strict=True):
        np.testing.assert_array_equal(got[0].frames[got[1]], wanted[0].frames[wanted[1]])
    behind.session.flush_updates()
    for name, array in plain.session.agent.state().arrays.items():
        np.testing.assert_array_equal(behind.session.agent.state().arrays[name], array, err_msg=name)


def test_a_pending_batch_reads_the_rows_that_were_sampled(rig: Callable[..., Rig]) -> None:
    """The next step may append several rows. The ring must not overwrite rows of the pending batch."""
    run = rig(learning_starts=20, pipeline=True)
    run.steps(80)
    for _ in range(200):
        pending = run.session.updates.pending
        assert pending is not None
        observations = pending.batch.observations
        wanted = [piece.copy() for piece in observations.slices()]
        run.session._interact()
        for piece, want in zip(observations.slices(), wanted, strict=True):
            np.testing.assert_array_equal(piece, want)
        run.session.updates.pending = run.session._sample()


def test_a_failing_environment_does_not_interrupt_the_running_update(
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
    settled.session.flush_updates()
    got, wanted = (_parts(run) for run in (failing, settled))
    assert got["pending"] is wanted["pending"] is None
    assert got["agent"] is not None
    assert wanted["agent"] is not None
    for name, array in wanted["agent"].arrays.items():
        if name != "generator" or failing.plan.config.algo == "rainbow":
            np.testing.assert_array_equal(got["agent"].arrays[name], array, err_msg=name)


class BlackFrames:
    """An endless environment of black frames with three actions. Records the actions."""

    spec = EnvSpec("Black-v0", "Black", (4, 4), (4, 4), Discrete(3))
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


class Identity:
    """Passes frames on unchanged."""

    def observe(self, frame: Any, *, first: bool) -> Observed:
        return Observed(frame, frame)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_evaluation_explores_with_epsilon(epsilon: float) -> None:
    env, steps = BlackFrames(), 6_000
    games = play(env, Identity(), lambda observed: 2, epsilon=epsilon, rng=np.random.default_rng(0))
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
def test_a_reward_that_is_not_finite_is_an_environment_failure(reward: float) -> None:
    with pytest.raises(EnvironmentFailedError, match="the reward is"):
        Guarded(BlackFrames(reward)).step(0)


@pytest.mark.parametrize("reward", [1e300, -1e19])
def test_a_reward_that_is_too_large_to_learn_from_is_named(
    reward: float, rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = rig().session
    take = session.env.step
    monkeypatch.setattr(session.env, "step", lambda action: dataclasses.replace(take(action), reward=reward))
    if session.config.settings.reward_clip is not None:  # then it is not too large
        session.step()
        return
    with pytest.raises(EnvironmentFailedError, match=r"the reward is .*, which is too large to learn from; scale"):
        session.step()


def test_the_best_policy_replaces_a_later_one_of_a_run_that_resumed(rig: Callable[..., Rig], tmp_path: Path) -> None:
    run, best = rig(), tmp_path / "best"
    run.steps(30)
    snapshot = run.session.snapshot()
    checkpoint.save(snapshot, best, acting_only=True)
    checkpoint.save(dataclasses.replace(snapshot, timestep=20), best, acting_only=True)
    assert checkpoint.newest(best, acting_only=True).timestep == 20


@pytest.mark.parametrize(
    ("own", "cgroup", "message"),
    [
        (1, None, r"limit of 1 B at step 0; resume with a larger --rss-limit or a smaller --mem-budget$"),
        (2, 1, r"limit of 1 B of its cgroup at step 0; resume with a larger limit or a smaller --mem-budget$"),
        (None, 1, r"limit of 1 B of its cgroup at step 0; resume with a larger limit or a smaller --mem-budget$"),
    ],
)
def test_a_run_that_exceeds_a_memory_limit_names_the_one_that_it_exceeds(
    own: int | None,
    cgroup: int | None,
    message: str,
    build_rig: Callable[..., Rig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seer_edge.training.run, "cgroup_limit_bytes", lambda: cgroup)
    session = build_rig(rss_limit_bytes=own).session
    run = Run(RunFolder(tmp_path), session, Console(1_000), None)
    with pytest.raises(RunStoppedError, match=message):
        run._watch_memory()
