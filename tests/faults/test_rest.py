"""A robot in real time is brought to rest if the program that controls it stops, fails, hangs or is killed."""

import functools
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge
from seer_edge.runs import checkpoint
from seer_runtime import durable
from tests.end_to_end.robot_env import events
from tests.faults import runs
from tests.faults.robot import ROBOT, Robot, log_checkpoints, log_savers
from tests.sockets import ask

REST_SECONDS = 0.2
"""Time in which a robot is at rest after its program was killed."""


def test_a_robot_rests_at_the_start_and_before_the_last_checkpoint(tmp_path: Path) -> None:
    prepare = functools.partial(log_checkpoints, tmp_path / "robot")
    robot = Robot(tmp_path, "--total-timesteps", "90", prepare=prepare, guarded=True)
    assert robot.child.join() == 0, robot.messages.read_text()
    moved = [event for event in robot.events if event != "checkpoint"]
    assert moved[:5] == ["rest", "reset", "rest", "reset", "step"], "the first reset is that of the plan"
    assert robot.events[-2:] == ["rest", "checkpoint"]
    assert not robot.stopped.exists(), "the run ended in order"


@pytest.mark.fault(
    "SIGTERM or SIGINT while a robot moves in real time",
    promise="`rest` is called before the last checkpoint is written; exit 143 or 130",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)])
def test_a_robot_rests_before_the_checkpoint_of_a_stopped_run(tmp_path: Path, number: signal.Signals) -> None:
    prepare = functools.partial(log_checkpoints, tmp_path / "robot")
    robot = Robot(tmp_path, "--total-timesteps", "100000", prepare=prepare, guarded=True)
    robot.wait_for_steps()
    robot.signal(number)
    assert robot.child.join() == 128 + number, robot.messages.read_text()
    assert robot.events[-2:] == ["rest", "checkpoint"]
    assert not robot.stopped.exists()


def send_twice_at_step(step: int, number: int, send: Any) -> None:
    def act() -> None:
        for _ in range(2):
            os.kill(os.getpid(), number)

    runs.at_call("tests.end_to_end.robot_env:Robot.step", step, act)


@pytest.mark.fault(
    "a second SIGTERM or SIGHUP while a robot moves in real time, in training, an evaluation, or when a bundle plays",
    promise="`rest` is called before the process ends; SIGHUP still ends it in order",
)
@pytest.mark.parametrize("command", ["train", "eval", "act", "record"])
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.faults)])
def test_a_robot_rests_if_a_second_signal_ends_the_program(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    prepare = functools.partial(send_twice_at_step, 20, number)
    if command == "train":
        robot = Robot(tmp_path, "--total-timesteps", "100000", prepare=prepare)
        child = robot.child
    else:
        robot = Robot(tmp_path, "--total-timesteps", "60")
        assert robot.child.join() == 0, robot.messages.read_text()
        bundle, demos = tmp_path / "robot.seer", tmp_path / "demos.seer"
        seer_edge.export(robot.run, bundle)
        robot.log.write_text("")
        given = ("--env", ROBOT, "--env-kwargs", json.dumps({"log": str(robot.log)}))
        words = {
            "eval": ("eval", robot.run),
            "act": ("act", bundle),
            "record": ("record", *given, "--policy", bundle, "-o", demos),
        }
        child = runs.start(robot.messages, runs.command, *words[command], prepare=prepare)
    in_order = number == signal.SIGHUP or command == "train"  # the learner still saves, while the robot is at rest
    assert child.join() == (128 + number if in_order else -number), robot.messages.read_text()
    assert robot.events[-1] == "rest"
    assert robot.events.count("step") < 40
    assert (tmp_path / "demos.seer").exists() == (command == "record")


@pytest.mark.fault(
    "a robot's environment raises in real time, and its `rest` raises too",
    promise="exit 75 with the first error; `rest` is tried before the checkpoint, then `rest_command` runs",
)
@pytest.mark.parametrize("rest_fails", [False, True])
def test_a_robot_rests_after_its_environment_has_failed(tmp_path: Path, rest_fails: bool) -> None:
    prepare = functools.partial(log_checkpoints, tmp_path / "robot")
    robot = Robot(tmp_path, prepare=prepare, fail_at=45, rest_fails=rest_fails, guarded=True)
    assert robot.child.join() == 75, robot.messages.read_text()
    messages = robot.messages.read_text()
    assert "the environment failed after step 44: OSError: the camera is gone" in messages
    assert messages.count("could not be brought to rest: OSError: the motors do not answer") == rest_fails
    assert robot.events[-3:] == ["step", "rest", "checkpoint"]
    assert robot.stopped.exists() == rest_fails
    assert robot.saved_at == 44


@pytest.mark.fault(
    "a step of a robot's environment is later than `--rest-after`",
    promise="`rest` is called while the step runs; the episode is cut, and the run continues",
)
def test_a_robot_rests_while_a_step_is_late(tmp_path: Path) -> None:
    words = ("--total-timesteps", "120", "--rest-after", "600ms")
    robot = Robot(tmp_path, *words, slow_at=45, slow_seconds=3.0)
    assert robot.child.join() == 0, robot.messages.read_text()
    assert "no step within 0.61 s: brought to rest" in robot.messages.read_text()
    late = [index for index, event in enumerate(robot.events) if event == "step"][44]
    assert robot.events[late : late + 4] == ["step", "rest", "rest", "reset"]
    assert robot.saved_at == 120


@pytest.mark.fault(
    "a step of a robot's environment hangs",
    promise="`rest` is called before the checkpoint, and `rest_command` runs at the end; exit 75",
)
def test_a_robot_rests_while_its_environment_hangs(tmp_path: Path) -> None:
    prepare = functools.partial(log_checkpoints, tmp_path / "robot")
    words = ("--env-timeout", "3s", "--rest-after", "1h")
    robot = Robot(tmp_path, *words, prepare=prepare, slow_at=45, slow_seconds=1000.0, guarded=True)
    assert robot.child.join() == 75, robot.messages.read_text()
    assert "step did not return within 3 seconds" in robot.messages.read_text()
    assert robot.events[-3:] == ["step", "rest", "checkpoint"]
    runs.wait_until(robot.stopped.exists)


def test_the_learner_saves_while_its_environment_hangs(tmp_path: Path) -> None:
    """No other thread may read the session: the learner could be in the middle of an update."""
    prepare = functools.partial(log_savers, tmp_path / "savers")
    robot = Robot(tmp_path, "--env-timeout", "3s", prepare=prepare, slow_at=45, slow_seconds=1000.0)
    assert robot.child.join() == 75, robot.messages.read_text()
    first, last = (tmp_path / "savers").read_text().splitlines()
    assert first == last
    assert robot.saved_at == 44
    assert robot.written_status == "failed"


def test_a_recorded_robot_rests_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    log, file = tmp_path / "robot", tmp_path / "demos"
    command = ("record", "--env", ROBOT, "--env-kwargs", json.dumps({"log": str(log), "length": 5}), "--hz", "100")
    child = runs.start(tmp_path / "messages", runs.command, *command, "--episodes", "2", "-o", file)
    assert child.join() == 0, (tmp_path / "messages").read_text()
    assert events(log) == ["rest", *2 * ["reset", *5 * ["step"]], "rest"]
    assert file.exists()


def test_a_paused_robot_is_not_moved_at_the_end_of_the_run(tmp_path: Path) -> None:
    robot = Robot(tmp_path, "--total-timesteps", "300", length=10_000)
    robot.wait_for_steps()
    robot.signal(signal.SIGUSR1)
    robot.wait_for(lambda: robot.events[-1] == "rest")
    moved = len([event for event in robot.events if event != "rest"])
    robot.signal(signal.SIGTERM)
    assert robot.child.join() == 143, robot.messages.read_text()
    assert len([event for event in robot.events if event != "rest"]) == moved


def test_sigusr1_pauses_and_resumes(tmp_path: Path) -> None:
    robot = Robot(tmp_path, "--total-timesteps", "300", length=10_000)
    robot.wait_for_steps()
    robot.signal(signal.SIGUSR1)
    robot.wait_for(lambda: robot.events[-1] == "rest")
    before = robot.events
    time.sleep(0.5)
    assert robot.events == before, "nothing moves in a pause"
    assert f"paused, at rest; kill -USR1 {robot.child.process.pid} continues" in robot.messages.read_text()
    robot.wait_for(lambda: robot.written_status == "paused")
    robot.signal(signal.SIGUSR1)
    assert robot.child.join() == 0, robot.messages.read_text()
    assert robot.written_status == "finished"
    assert robot.events[len(before)] == "reset"
    assert robot.saved_at == 300


def test_the_control_socket_pauses_resumes_and_stops(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most 107 bytes
        path = f"{short}/robot.sock"
        words = ("--total-timesteps", "100000", "--control-socket", path, "--status-port", "0")
        robot = Robot(tmp_path, *words, length=10_000)
        robot.wait_for_steps()
        (moving,) = ask(path, "status")
        assert moving.startswith("running, step ")
        assert moving.endswith(" of 100,000")
        assert ask(path, "pause")[0].startswith("paused, step ")
        before = robot.events
        assert before[-1] == "rest", "the answer comes at rest"
        assert robot.shown_status == "paused"
        robot.wait_for(lambda: robot.written_status == "paused")
        answers = ask(path, "go", "status")
        assert answers[0] == "error: unknown command 'go'; give pause, resume, status or stop"
        assert answers[1].startswith("paused, step ")
        assert robot.events == before, "nothing moves in a pause"
        assert ask(path, "resume")[0].startswith("running, step ")
        robot.wait_for(lambda: robot.events[len(before) + 1 :] != [])
        assert robot.events[len(before) : len(before) + 2] == ["reset", "step"]
        assert robot.shown_status == "running"
        robot.wait_for(lambda: robot.written_status == "running")
        assert ask(path, "stop")[0].startswith("stopping, step ")
        assert robot.child.join() == 143, robot.messages.read_text()
        assert robot.events[-1] == "rest"
        assert list(Path(short).iterdir()) == []


def test_a_pause_in_an_evaluation_is_shown(tmp_path: Path) -> None:
    """The pause cuts the only episode, so the run ends after it."""
    words = ("--total-timesteps", "60", "--eval-every", "60", "--eval-episodes", "1")
    robot = Robot(tmp_path, *words, length=10_000)
    robot.wait_for_steps()
    robot.wait_for(lambda: "evaluation at step 60: 1 episode " in robot.messages.read_text())
    robot.signal(signal.SIGUSR1)
    robot.wait_for(lambda: robot.written_status == "paused")
    robot.signal(signal.SIGUSR1)
    assert robot.child.join() == 0, robot.messages.read_text()
    assert robot.written_status == "finished"


def test_a_run_can_be_stopped_in_a_pause(tmp_path: Path) -> None:
    robot = Robot(tmp_path, "--total-timesteps", "100000")
    robot.wait_for_steps()
    robot.signal(signal.SIGUSR1)
    robot.wait_for(lambda: robot.written_status == "paused")
    robot.signal(signal.SIGTERM)
    assert robot.child.join() == 143, robot.messages.read_text()
    assert robot.written_status == "interrupted"
    assert robot.events[-1] == "rest"


@pytest.mark.fault(
    "SIGKILL of the program at a random moment while a robot moves",
    promise="`rest_command` acts; in the test of 100 kills, within 200 ms each time",
)
@pytest.mark.parametrize("trials", [2, pytest.param(100, marks=pytest.mark.faults)])
def test_a_robot_rests_after_its_program_was_killed(tmp_path: Path, trials: int, record_property: Any) -> None:
    rng, delays = random.Random(trials), []
    for trial in range(trials):
        folder = tmp_path / str(trial)
        folder.mkdir()
        robot = Robot(folder, "--total-timesteps", "100000", guarded=True)
        robot.wait_for_steps(40)
        time.sleep(rng.uniform(0, 0.3))
        assert not robot.stopped.exists()
        killed = time.time()
        assert robot.child.kill() == -signal.SIGKILL
        runs.wait_until(robot.stopped.exists)
        delays.append(robot.stopped.stat().st_mtime - killed)
    record_property("trials", trials)
    print(f"at rest after {np.median(delays) * 1e3:.0f} ms (median), {max(delays) * 1e3:.0f} ms (worst of {trials})")
    if trials == 100:
        assert max(delays) < REST_SECONDS


def test_the_limits_of_actions_hold_and_executed_actions_are_stored(tmp_path: Path) -> None:
    words = ("--action-limit", "-0.5,0.75", "--slew-rate", "4,200", "--total-timesteps", "60")
    fast = ("--resolution", "28", "--color", "gray", "--set", "features=7")
    robot = Robot(tmp_path, *words, *fast, controls=2, length=10_000)
    assert robot.child.join() == 0, robot.messages.read_text()
    sent = np.array([line.split()[1:] for line in robot.log.read_text().splitlines() if line.startswith("step")], float)
    controls = sent / 10  # in the agent's units
    assert controls.min() >= -0.5 - 1e-4
    assert controls.max() <= 0.75 + 1e-4
    change = np.abs(np.diff(controls, axis=0, prepend=0))
    assert change[:, 0].max() <= 0.04 + 2e-4
    assert change[:, 1].max() > 0.04, "the other control may change faster"
    config = json.loads((robot.run / "config.json").read_text())
    assert (config["action_limit"], config["slew_rate"]) == ([-0.5, 0.75], [4.0, 200.0])
    tensors = durable.read_tensors(checkpoint.newest(robot.run / "checkpoints").path / checkpoint.REPLAY)
    (actions,) = (array for name, array in tensors.items() if name.endswith("action"))
    np.testing.assert_allclose(actions[:60], controls[:60], atol=1e-4)
    resume = ("resume", robot.run, "--total-timesteps", "90", "--slew-rate", "2")
    assert runs.start(robot.messages, runs.command, *resume).join() == 0, robot.messages.read_text()
    config = json.loads((robot.run / "config.json").read_text())
    assert (config["action_limit"], config["slew_rate"]) == ([-0.5, 0.75], [2.0])
