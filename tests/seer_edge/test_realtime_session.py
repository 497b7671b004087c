"""The learner's side of control in real time: stored steps, updates between them, and gaps."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seer_edge.config.plan import make_plan
from seer_edge.envs import Step
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError
from seer_edge.realtime.feed import ControlEndedError
from seer_edge.realtime.session import RealTimeSession
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import freeze
from seer_edge.training.session import build_session, resume_session
from seer_runtime.replay.store import FINAL
from tests.seer_edge.freeze_rig import Noise, Rig

pytestmark = pytest.mark.integration


class World:
    """A real-time session whose control thread is the test."""

    def __init__(self, rig: Rig, **changes: Any) -> None:
        config = dataclasses.replace(rig.plan.config, hz=100.0, **changes)
        self.plan = make_plan(config, rig.plan.env)
        self.session = build_session(self.plan, kind=RealTimeSession)
        self.env = env_of(self.session.env)
        self.control = self.session.open_control()
        self.pilot = self.session.pilot
        self.begin()

    def begin(self) -> None:
        frame = self.env.reset()
        self.pilot.begin(frame, new_scene=self.env.new_scene)

    def act(self, count: int = 1) -> None:
        for _ in range(count):
            action = self.pilot.act(0.0)
            step = self.env.step(action)
            self.pilot.stepped(action, step)
            if step.terminated or step.truncated:
                self.begin()

    def play(self, steps: int) -> None:
        for _ in range(steps):
            self.act()
            self.session.step()


def env_of(guarded: Guarded) -> Noise:
    env = guarded._env
    assert isinstance(env, Noise)
    return env


Row = tuple[int, Any, float | None]
"""First pixel, action and reward. A final row has neither action nor reward."""


def stored(session: RealTimeSession) -> list[Row]:
    """Return every row that is held."""
    store = session.replay.store
    ids = np.arange(store.oldest, store.appended)
    frames = np.zeros((len(ids), session.plan.config.settings.stack, *session.plan.env.frame_shape), np.uint8)
    store.gather(ids, np.zeros((len(ids), 1), np.int64), frames)
    rows: list[Row] = []
    for frame, slot in zip(frames, store.slots(ids), strict=True):
        pixel, columns = int(frame[-1].ravel()[0]), store.columns
        final = columns.flags[slot] & FINAL
        rows.append(
            (pixel, None, None) if final else (pixel, columns.action[slot].tolist(), float(columns.reward[slot]))
        )
    return rows


def wanted(env: Noise, clip: float | None) -> list[Row]:
    """Return what the environment logged, in the form of `stored`."""
    rows: list[Row] = []
    for episode, step in env.rows():
        final = step == len(episode.actions)
        pixel = int(episode.frames[step].ravel()[0])
        if final:
            rows.append((pixel, None, None))
            continue
        reward = episode.rewards[step]
        reward = reward if clip is None else float(np.clip(reward, -clip, clip))
        rows.append((pixel, np.asarray(episode.actions[step]).tolist(), float(np.float32(reward))))
    return rows


@pytest.mark.parametrize("lives", [False, True])
def test_every_step_of_the_control_thread_is_stored(build_rig: Callable[..., Rig], lives: bool) -> None:
    world = World(build_rig("rainbow", lives=lives, learning_starts=20))
    world.play(200)
    session = world.session
    assert session.timestep == 200
    expected = wanted(world.env, session.config.settings.reward_clip)
    held = stored(session)
    assert session.replay.store.appended == len(expected)
    assert held == expected[-len(held) :]


def test_it_makes_as_many_updates_as_fit_and_no_more(build_rig: Callable[..., Rig]) -> None:
    world = World(build_rig("rainbow", learning_starts=20), max_updates_per_step=3)
    world.play(20)
    assert world.session.agent.updates == 0
    world.play(5)
    assert world.session.agent.updates == 15, "nothing waited, so three updates a step"
    world.act(4)
    made = []
    for _ in range(4):
        before = world.session.agent.updates
        world.session.step()
        made.append(world.session.agent.updates - before)
    assert made == [0, 0, 0, 3], "while steps wait, it only stores them"


def test_an_evaluation_cuts_the_episode(build_rig: Callable[..., Rig]) -> None:
    world = World(build_rig("rainbow"))
    world.play(30)
    while not world.env.log[-1].actions or world.env.left < 5:
        world.play(1)
    appended = world.session.replay.store.appended
    world.begin()  # as after an evaluation
    world.play(1)
    assert world.session.replay.store.appended == appended + 2
    final, step = stored(world.session)[-2:]
    assert final == (int(world.env.log[-2].frames[-1].ravel()[0]), None, None)
    assert step[0] == int(world.env.log[-1].frames[0].ravel()[0])


@pytest.mark.parametrize("kind", ["rainbow", "curl-sac"])
def test_it_freezes_while_steps_arrive(build_rig: Callable[..., Rig], kind: str, tmp_path: Any) -> None:
    rig = build_rig(kind, learning_starts=20)
    world = World(rig)
    world.play(60)
    world.act(10)  # these wait in the feed
    session = world.session
    freeze(session, rig.path, lambda: None)
    assert not world.pilot.perception.__class__.__name__.startswith("Latent"), "the control thread continues"
    world.act(5)
    assert world.pilot.perception.__class__.__name__.startswith("Latent")
    for _ in range(15):
        session.step()
    world.play(30)
    assert session.timestep == 105
    assert session.phase == "latent"
    # Learner and control thread have the same observation.
    assert np.allclose(session.observed.input, world.pilot._observed.input)
    encoder = session.perception.encoder  # type: ignore[attr-defined]
    assert encoder is not world.pilot._encoder, "each thread has its own output"


def test_discarded_steps_are_not_stored(build_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(build_rig("rainbow"))
    step = world.env.step

    def moved(action: Any) -> Step:
        return dataclasses.replace(step(action), discard=True)

    while len(world.env.log[-1].actions) < 2 or world.env.left < 6:
        world.play(1)
    appended, timestep = world.session.replay.store.appended, world.session.timestep
    monkeypatch.setattr(world.env, "step", moved)
    world.act(3)
    monkeypatch.setattr(world.env, "step", step)
    world.play(1)
    assert world.session.replay.store.appended == appended + 2
    assert world.session.timestep == timestep + 1
    frames = [int(frame.ravel()[0]) for frame in world.env.log[-1].frames]
    final, after = stored(world.session)[-2:]
    assert final == (frames[-5], None, None), "the episode is cut before the first discarded step"
    assert after[0] == frames[-2]
    # The agent acts on what is stored: the frame after the discarded steps begins a scene for both threads.
    assert np.array_equal(world.session.observed.input, world.pilot._observed.input)


def test_the_executed_action_is_stored(build_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(build_rig("rainbow"))
    step = world.env.step
    monkeypatch.setattr(world.env, "step", lambda action: dataclasses.replace(step(action), action=2))
    world.play(30)
    assert {row[1] for row in stored(world.session)} <= {2, None}


def test_the_speed_is_that_of_the_ticks_and_not_of_the_stored_steps(build_rig: Callable[..., Rig]) -> None:
    begin, world = time.monotonic(), World(build_rig("rainbow", learning_starts=20))
    world.act(60)  # these wait in the feed
    for _ in range(6):
        time.sleep(0.01)
        world.control.ticks.follow()
    for _ in range(60):
        world.session.step()
    figures = world.session.interval_figures()
    assert figures["control/ticks"] == 6
    assert 6 / (time.monotonic() - begin) <= figures["time/fps"] <= 6 / 0.06
    assert world.session.interval_figures()["time/fps"] == figures["time/fps"], "no tick came since then"


def test_errors_of_the_environment_reach_the_learner(build_rig: Callable[..., Rig]) -> None:
    world = World(build_rig("rainbow"))
    world.play(3)
    world.act(2)
    world.session.feed.end(EnvironmentFailedError("the camera is gone"))
    world.session.step()
    world.session.step()
    with pytest.raises(EnvironmentFailedError, match="the camera is gone"):
        world.session.step()


def test_a_checkpoint_is_resumed_with_a_new_episode(build_rig: Callable[..., Rig], tmp_path: Any) -> None:
    world = World(build_rig("rainbow", learning_starts=20))
    world.play(40)
    path = checkpoint.save(world.session.snapshot(), tmp_path / "checkpoints")
    saved = checkpoint.newest(path.parent)
    session, notes = resume_session(world.plan, saved, kind=RealTimeSession)
    assert notes == ["an environment in real time is not saved: a new episode begins"]
    for name, array in world.session.agent.state().arrays.items():
        np.testing.assert_array_equal(array, session.agent.state().arrays[name])
    assert stored(session)[: len(stored(world.session))] == stored(world.session)
    control = session.open_control()
    thread = threading.Thread(target=control.run, args=(lambda: session.timestep >= 60,))
    thread.start()
    while session.timestep < 60:
        session.step()
    control.end()
    thread.join(30)
    assert not thread.is_alive()
    for _ in range(session.feed.waiting):
        session.step()
    with pytest.raises(ControlEndedError):
        session.step()
