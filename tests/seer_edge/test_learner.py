"""Input that `Learner` refuses, and its threads at the start and at the end."""

import contextlib
import dataclasses
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge
from seer_edge.api.continued import check_options
from seer_edge.config.request import RunRequest
from seer_edge.envs import exchange as meeting
from seer_edge.envs.own_loop import OwnLoop
from seer_edge.runs import checkpoint, run_folder
from seer_runtime import durable
from seer_runtime.replay.store import FINAL
from tests.seer_edge.configs import atari_config

OPTIONS: Any = {"hz": 100, "mem_budget": "1MB", "total_timesteps": 60, "set": {"batch_size": 8, "learning_starts": 20}}
SECONDS = 20


def _make(*values: Any, run_dir: Any) -> seer_edge.BadInputError | TypeError:
    """Return the error of a learner that cannot be made."""
    with pytest.raises((seer_edge.BadInputError, TypeError)) as raised:
        seer_edge.Learner(*values, run_dir=run_dir, **OPTIONS)
    return raised.value


def _in_time(call: Callable[[], Exception]) -> Exception:
    found: list[Exception] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert found, "the learner waits forever"
    return found[0]


def _run_of(folder: Path, env: str, kwargs: dict[str, Any]) -> dict[Path, bytes]:
    """Write a run that has not started yet; return its files."""
    exchange = meeting.Exchange()
    exchange.open()
    try:
        plan = seer_edge.plan(env, env_kwargs=kwargs, **OPTIONS)
    finally:
        exchange.close()
    run_folder.create(folder, plan.config)
    return _files(folder)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("shape", "actions", "differs"),
    [
        ((36, 36), 5, "actions 3, not 5"),
        ((48, 36), 3, r"shape [36, 36], not [48, 36]"),
        ((36, 36), ([-1], [1]), "actions 3, not [[-1.0], [1.0]]"),
    ],
)
def test_a_learner_refuses_the_run_of_other_frames_or_actions(
    shape: tuple[int, ...], actions: Any, differs: str, tmp_path: Path
) -> None:
    before = _run_of(tmp_path / "run", meeting.ENV, {"shape": [36, 36], "actions": 3})
    error = _in_time(lambda: _make(shape, actions, run_dir=tmp_path / "run"))
    assert str(error) == f"run_dir {tmp_path / 'run'}: its run has {differs}; give another folder"
    assert {path: data for path, data in _files(tmp_path / "run").items() if path in before} == before


def test_a_learner_refuses_the_run_of_another_environment(tmp_path: Path) -> None:
    _run_of(tmp_path / "run", "Pong", {})
    error = _in_time(lambda: _make((84, 84), 6, run_dir=tmp_path / "run"))
    assert "holds a run of" in str(error)
    assert "give another folder" in str(error)


def test_a_learner_refuses_a_missing_folder_at_once(tmp_path: Path) -> None:
    assert isinstance(_in_time(lambda: _make((36, 36), 3, run_dir=None)), TypeError)


@pytest.mark.parametrize(
    ("shape", "actions", "message"),
    [
        (36, 3, "frame_shape 36: give (height, width), or (height, width, 3) for RGB"),
        ((36, 36, 4), 3, "frame_shape (36, 36, 4): give (height, width), or (height, width, 3) for RGB"),
        ((36.5, 36), 3, "frame_shape (36.5, 36): give (height, width), or (height, width, 3) for RGB"),
        ((0, 36), 3, "frame_shape (0, 36): give (height, width), or (height, width, 3) for RGB"),
        ((36, 36), ([1], [-1]), "actions ([1], [-1]): a lower bound is above the upper one; give (low, high)"),
        ((36, 36), 0, "actions 0: give a number of actions, or (low, high) with finite bounds"),
    ],
)
def test_a_learner_names_the_argument_that_cannot_be_used(
    shape: Any, actions: Any, message: str, tmp_path: Path
) -> None:
    assert str(_in_time(lambda: _make(shape, actions, run_dir=tmp_path / "run"))) == message
    assert not list(tmp_path.iterdir())


def test_a_learner_refuses_another_environment(tmp_path: Path) -> None:
    options: Any = {**OPTIONS, "env": "Alien"}
    with pytest.raises(seer_edge.BadInputError, match=r"^env: the environment of a Learner is your program"):
        seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"control_socket": "s"}, "control_socket: a Learner pauses while you do not call step; leave it out"),
        ({"eval_every": 100}, "eval_every: a Learner plays no evaluations; leave it out"),
        ({"env_timeout": "10s"}, "env_timeout: a Learner waits as long as you do not call step; leave it out"),
    ],
)
def test_a_learner_refuses_options_without_an_effect(option: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(seer_edge.BadInputError) as refused:
        seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **OPTIONS, **option)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("option", "shown", "had"),
    [
        ({"seed": 3}, "seed 3", "0"),
        ({"set": {"batch_size": 16}}, "set batch_size 16", "8"),
        ({"freeze_at": "never"}, "freeze_at never", "24"),
        ({"freeze_at": "auto"}, "freeze_at auto", "24"),
        ({"latent_codec": "float16"}, "latent_codec float16", "float32"),
        ({"encoder": "impala"}, "encoder impala", "data-efficient"),
        ({"pipeline": False}, "pipeline False", "True"),
        ({"preset": "pong"}, "preset pong", "default"),
        ({"freeze_layers": 1}, "freeze_layers 1", "none"),
    ],
)
def test_a_run_that_continues_refuses_an_option_that_differs(
    option: dict[str, Any], shown: str, had: str, tmp_path: Path
) -> None:
    _run_of(tmp_path / "run", meeting.ENV, {"shape": [36, 36], "actions": 3})
    with pytest.raises(seer_edge.BadInputError) as refused:
        seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **(OPTIONS | option))
    expected = f"{shown}: the run in {tmp_path / 'run'} has {had}; leave it out, or give another run_dir"
    assert str(refused.value) == expected


def test_a_run_that_continues_accepts_settings_that_an_import_has_changed(tmp_path: Path) -> None:
    """A run that imports heads and rows learns at once, whatever `learning_starts` it was given."""
    options: Any = {"set": {"learning_starts": 20}}
    given = atari_config(overrides=options["set"])
    saved = dataclasses.replace(given, settings=dataclasses.replace(given.settings, learning_starts=0))
    check_options(tmp_path, options, RunRequest.of(env="Alien", **options), saved)
    others: Any = {"set": {"learning_starts": 30}}
    with pytest.raises(seer_edge.BadInputError, match=r"^set learning_starts 30: "):
        check_options(tmp_path, others, RunRequest.of(env="Alien", **others), saved)


@pytest.mark.integration
def test_a_run_that_continues_accepts_equal_options_and_those_of_resume(tmp_path: Path) -> None:
    frame = np.zeros((36, 36), np.uint8)
    more: Any = {"freeze_at": "auto", "latent_codec": "auto", "seed": 2, "checkpoint_every": 50, "log_every": 7}
    for steps in (30, 40):
        options = OPTIONS | more | {"total_timesteps": steps}
        with seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **options) as learner:
            while learner.step(frame, 1.0) is not None:
                pass
        assert (learner.result.status, learner.result.timestep) == ("finished", steps)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("actions", "executed"), [(3, 3), (3, -1), (3, "left"), (3, 1.5), (([-1], [1]), [0, 0]), (([-1], [1]), [np.nan])]
)
def test_a_wrong_executed_action_is_refused_and_the_run_continues(actions: Any, executed: Any, tmp_path: Path) -> None:
    frame = np.zeros((36, 36), np.uint8)
    with seer_edge.Learner((36, 36), actions, run_dir=tmp_path / "run", **OPTIONS) as learner:
        learner.step(frame)
        with pytest.raises(seer_edge.BadInputError, match=r"^executed .*: not an action; give "):
            learner.step(frame, executed=executed)
        assert learner.step(frame, 1.0, executed=0 if actions == 3 else [2.5]) is not None
    assert learner.result.status == "interrupted"


@pytest.mark.integration
def test_another_learner_can_start_after_an_interrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, interrupts = threading.Event.wait, [KeyboardInterrupt]

    def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout == 0.01 and interrupts:
            raise interrupts.pop()
        return wait(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "first", **OPTIONS)
    monkeypatch.undo()
    with seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "second", **OPTIONS) as learner:
        assert learner.step(np.zeros((36, 36), np.uint8)) in (0, 1, 2)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "stored"), [({"freeze_at": "never"}, 39), ({"freeze_at": 25}, 25), ({"keep_checkpoint": [20]}, 20)]
)
def test_pending_steps_are_stored_at_the_end_up_to_the_next_update_or_freeze(
    changes: dict[str, Any], stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, resumed = checkpoint.save, threading.Event()

    def saved_late(*args: Any, **given: Any) -> Path:
        assert resumed.wait(SECONDS)
        return save(*args, **given)

    monkeypatch.setattr(checkpoint, "save", saved_late)
    frame = np.zeros((36, 36), np.uint8)
    with seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **(OPTIONS | changes)) as learner:
        for _ in range(40):
            assert learner.step(frame, 1.0) is not None
        learner._stop.request()  # while the first checkpoint is still written
        resumed.set()
    assert (learner.result.status, learner.result.timestep) == ("interrupted", stored)
    assert checkpoint.newest(tmp_path / "run/checkpoints").timestep == stored
    assert learner.result.summary["real_time"]["dropped_steps"] == 39 - stored


def test_a_reused_environment_serves_the_next_learner() -> None:
    first, second = meeting.Exchange(), meeting.Exchange()
    first.open()
    env = OwnLoop([2, 2], 3)
    env.reset()
    first.close()
    with pytest.raises(meeting.LoopEndedError):
        env.reset()
    second.open()
    try:
        env.reset()  # the plan's
        second.give(meeting.Given(np.full((2, 2), 7, np.uint8), 0.0, False, False))
        assert env.reset()[0].tolist() == [[7, 7], [7, 7]]
    finally:
        second.close()


@pytest.mark.integration
def test_each_frame_has_its_own_action_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, taken = meeting.Exchange.action, dict[int, int]()

    def interrupted(exchange: meeting.Exchange) -> Any:
        monkeypatch.setattr(meeting.Exchange, "action", wait)
        raise KeyboardInterrupt

    brief = {"batch_size": 8, "learning_starts": 20, "n_step": 2}
    options = {**OPTIONS, "total_timesteps": 300, "freeze_at": "never", "set": brief}
    with seer_edge.Learner((36, 36), 50, run_dir=tmp_path / "run", **options) as learner:
        for tick in range(1, 40):
            if tick == 20:
                monkeypatch.setattr(meeting.Exchange, "action", interrupted)
            frame = np.full((36, 36), tick, np.uint8)
            with contextlib.suppress(KeyboardInterrupt):
                taken[tick] = learner.step(frame, reward=1.0)
    replay = durable.read_tensors(checkpoint.newest(tmp_path / "run" / "checkpoints").path / checkpoint.REPLAY)
    steps = (replay["flags"] & FINAL) == 0
    stored = dict(zip(replay["rows"][steps, 0].tolist(), replay["action"][steps].tolist(), strict=True))
    assert len(stored) > 30
    assert 20 not in stored  # the program never had its action
    assert stored == {tick: taken[tick] for tick in stored}


def test_a_program_with_its_own_loop_keeps_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output, its random generators and its working directory stay as they are while an action is awaited."""
    frame = np.zeros((36, 36), np.uint8)
    random.seed(5)
    expected, stdout = random.Random(5), sys.stdout
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with seer_edge.Learner((36, 36), 3, run_dir="run", **OPTIONS) as learner:
        for _ in range(5):
            learner.step(frame)
            assert sys.stdout is stdout
            assert random.random() == expected.random()

        monkeypatch.chdir(tmp_path / "elsewhere")
        learner.step(frame)
        assert Path.cwd() == tmp_path / "elsewhere"
    assert learner.result.folder == tmp_path / "run"


def test_a_run_whose_last_step_ends_an_episode_is_over_without_another_frame(tmp_path: Path) -> None:
    frame = np.zeros((36, 36), np.uint8)
    with seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **OPTIONS) as learner:
        for _ in range(OPTIONS["total_timesteps"]):
            assert learner.step(frame, 1.0) is not None
        learner.step(frame, 1.0, truncated=True)
        deadline = time.monotonic() + SECONDS
        while not learner.done:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert checkpoint.newest(tmp_path / "run/checkpoints").timestep == OPTIONS["total_timesteps"]
    assert (learner.result.status, learner.result.signal) == ("finished", None)


def test_the_program_is_told_at_once_that_no_action_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint can take long on a memory card. A motor must not keep its last speed meanwhile."""
    save, saved = checkpoint.save, threading.Event()

    def saved_late(snapshot: Any, *arguments: Any, **options: Any) -> Path:
        if snapshot.timestep == OPTIONS["total_timesteps"]:
            assert saved.wait(SECONDS)
        return save(snapshot, *arguments, **options)

    monkeypatch.setattr(checkpoint, "save", saved_late)
    frame = np.zeros((36, 36), np.uint8)
    with seer_edge.Learner((36, 36), 3, run_dir=tmp_path / "run", **OPTIONS) as learner:
        steps = 0
        while learner.step(frame) is not None:
            steps += 1
            assert steps <= OPTIONS["total_timesteps"]
        assert learner.done
        assert not learner._over.is_set()
        saved.set()
    assert learner.result.summary["timesteps"] == OPTIONS["total_timesteps"]


def test_the_slew_rate_starts_from_rest_in_each_episode(tmp_path: Path) -> None:
    """Between episodes the program has no action, and brings everything to rest."""
    frame = np.zeros((36, 36), np.uint8)
    limits: Any = {"slew_rate": (10.0,), "hz": 100}
    with seer_edge.Learner((36, 36), ([-1.0], [1.0]), run_dir=tmp_path / "run", **{**OPTIONS, **limits}) as learner:
        for _ in range(4):
            actions = [learner.step(frame) for _ in range(8)]
            assert abs(actions[0][0]) <= 0.1 + 1e-6
            assert learner.step(frame, truncated=True) is None
