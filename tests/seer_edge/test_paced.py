"""The control loop's environment: the actions that it sends, and when it brings the environment to rest."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge.envs.paced
from seer_edge.envs import Continuous, EnvSpec, Step
from seer_edge.envs.games import evaluate
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.paced import Paced, PauseEndedError, in_real_time
from seer_edge.envs.safety import AskedLimits, limits_of
from seer_edge.envs.ticks import Ticks
from seer_edge.errors import EXIT_UNSAFE, EnvironmentFailedError, RunStoppedError
from seer_edge.machine.signals import PauseSignal, ignore_pauses

LONG = 1000.0
WAIT_SECONDS = 60


class Arm:
    """Two motors. `log` has their calls: "reset", "rest" and the actions that were sent."""

    new_scene = True

    def __init__(self) -> None:
        self.spec = EnvSpec("Arm-v0", "Arm", (4, 4), (4, 4), Continuous(2))
        self.log: list[Any] = []
        self.executed: Any = None
        self.fails = self.jammed = False
        self.rested = threading.Event()
        self.waits_for_rest = False

    def reset(self) -> Any:
        self.log.append("reset")
        return np.zeros((4, 4), np.uint8)

    def step(self, action: Any) -> Step:
        self.log.append(action.tolist())
        if self.fails:
            raise OSError("the camera is gone")
        if self.waits_for_rest:
            assert self.rested.wait(WAIT_SECONDS)
        return Step(np.ones((4, 4), np.uint8), 1.0, False, False, None, self.executed)

    def rest(self) -> None:
        self.log.append("rest")
        if self.jammed:
            raise OSError("the port is gone")
        self.rested.set()

    def close(self) -> None:
        pass

    def state(self) -> None:
        pass

    def restore(self, state: Any) -> None:
        pass


class Restless(Arm):
    """An environment without a method `rest`."""

    rest = None  # type: ignore[assignment]


def paced(env: Any, rest_after_seconds: float = LONG, asked: AskedLimits | None = None) -> Paced:
    guarded = Guarded(env)
    limits = None if asked is None else limits_of(env.spec, guarded.safety, asked)
    return Paced(guarded, Ticks(0.001), limits, rest_after_seconds)


ACTION = np.float32([1, -1])


def test_limited_actions_are_sent_and_reported() -> None:
    env = Arm()
    world = paced(env, asked=AskedLimits(1000.0, (-0.5, 0.25), (100.0,)))
    world.reset()
    steps = [world.step(ACTION) for _ in range(6)]
    sent = [[0.1, -0.1], [0.2, -0.2], [0.25, -0.3], [0.25, -0.4], [0.25, -0.5], [0.25, -0.5]]
    np.testing.assert_allclose(env.log[1:], sent, atol=1e-6)
    np.testing.assert_allclose([step.action for step in steps], sent, atol=1e-6)  # type: ignore[arg-type, misc]


def test_the_slew_rate_starts_from_rest_and_from_the_executed_action() -> None:
    env = Arm()
    world = paced(env, asked=AskedLimits(1000.0, None, (100.0,)))
    world.reset()
    env.executed = np.float32([0.5, 0.5])  # a person at a gamepad
    np.testing.assert_array_equal(world.step(ACTION).action, env.executed)  # type: ignore[arg-type]
    env.executed = None
    np.testing.assert_allclose(world.step(ACTION).action, [0.6, 0.4], atol=1e-6)  # type: ignore[arg-type]
    world.rest()
    np.testing.assert_allclose(world.step(ACTION).action, [0.1, -0.1], atol=1e-6)  # type: ignore[arg-type]


def test_the_slew_rate_continues_after_a_pause_without_rest() -> None:
    """Nothing brings such an environment to rest, so the last action is still in force."""
    env = Restless()
    world = paced(env, asked=AskedLimits(1000.0, None, (100.0,)))
    world.reset()
    for _ in range(5):
        world.step(ACTION)
    answers = iter([True, False])
    world.paused = lambda: next(answers, False)
    world.pause()
    np.testing.assert_allclose(world.step(ACTION).action, [0.6, -0.6], atol=1e-6)  # type: ignore[arg-type]


def test_an_action_that_is_not_finite_is_not_sent() -> None:
    env = Arm()
    world = paced(env, asked=AskedLimits(1000.0, None, (100.0,)))
    world.reset()
    with pytest.raises(RunStoppedError, match=r"^the action nan,1 is not finite: training diverged$"):
        world.step(np.float32([np.nan, 1]))
    assert env.log == ["reset"]


def test_nothing_is_reset_in_a_pause() -> None:
    env, paused = Arm(), threading.Event()
    world = paced(env)
    world.paused = paused.is_set
    paused.set()
    resetting = threading.Thread(target=world.reset)
    resetting.start()
    _until(lambda: world.is_paused)
    assert env.log == ["rest"]
    paused.clear()
    resetting.join(WAIT_SECONDS)
    assert env.log == ["rest", "reset"]


def test_a_loop_that_ends_in_a_pause_does_not_reset() -> None:
    env = Arm()
    world = paced(env)
    world.paused = world.halted = lambda: True
    with pytest.raises(PauseEndedError):
        world.reset()
    assert env.log == ["rest"]


def test_a_pause_is_reported_once_the_environment_is_at_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A rest that failed is tried again."""
    monkeypatch.setattr(seer_edge.envs.paced, "RETRY_SECONDS", 0.01)
    caplog.set_level("INFO", logger="seer_edge.envs.paced")
    env, paused = Arm(), threading.Event()
    env.jammed = True
    world = paced(env)
    world.paused = paused.is_set
    paused.set()
    waiting = threading.Thread(target=world.pause)
    waiting.start()
    _until(lambda: len(env.log) > 2)
    assert not world.is_paused
    env.jammed = False
    _until(lambda: world.is_paused)
    paused.clear()
    waiting.join(WAIT_SECONDS)
    lines = [record.getMessage().partition(";")[0] for record in caplog.records[1:]]
    assert caplog.records[0].getMessage().startswith("environment 'Arm-v0': could not be brought to rest")
    assert lines == ["paused, NOT at rest", "now at rest", "the pause is over"]


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_step_that_is_late_is_brought_to_rest_while_it_runs() -> None:
    env = Arm()
    world = paced(env, rest_after_seconds=0.05)
    world.reset()
    env.waits_for_rest = True  # nothing but another thread ends the step
    step = world.step(ACTION)
    assert (step.terminated, step.truncated, step.discard) == (False, True, True)
    assert env.log == ["reset", [1, -1], "rest", "rest"]
    assert world.at_rest
    env.waits_for_rest = False
    world.reset()
    assert not world.step(ACTION).discard, "the next episode is on time again"


def test_nothing_is_sent_after_the_agent_was_late() -> None:
    env = Arm()
    world = paced(env, rest_after_seconds=0.05)
    world.reset()
    world.step(ACTION)
    assert env.rested.wait(WAIT_SECONDS), "the agent chooses no action in time"
    step = world.step(ACTION)
    assert (step.truncated, step.discard) == (True, True)
    assert env.log == ["reset", [1, -1], "rest", "rest"]


def test_an_environment_without_rest_is_never_late() -> None:
    class Slow(Arm):
        rest = None  # type: ignore[assignment]

        def step(self, action: Any) -> Step:
            time.sleep(0.05)
            return super().step(action)

    world = paced(Slow(), rest_after_seconds=0.001)
    world.reset()
    assert not world.step(ACTION).discard


def test_a_pause_rests_and_waits_and_cuts_the_episode() -> None:
    env = Arm()
    world = paced(env)
    world.reset()
    asked = 0

    def paused() -> bool:
        nonlocal asked
        asked += env.log[-1] == "rest"
        return len(env.log) > 2 and asked < 4

    world.paused = paused
    assert not world.step(ACTION).discard
    step = world.step(ACTION)
    assert (step.truncated, step.discard) == (True, True)
    assert asked >= 4, "it waits until the pause is over"
    assert env.log == ["reset", [1, -1], [1, -1], "rest"]


class Blank:
    """A perception of nothing."""

    def observe(self, frame: Any, *, first: bool) -> Any:
        return None


def test_an_episode_of_an_evaluation_that_is_cut_counts_so_far() -> None:
    env = Arm()
    world = paced(env)
    world.paused = lambda: env.log[-3:] == ["reset", [1, -1], [1, -1]]
    world.halted = lambda: True
    played = evaluate(world, Blank(), lambda _: ACTION, episodes=2, epsilon=0.0, rng=np.random.default_rng(0))
    assert played is not None
    assert played.returns == (2.0, 2.0)
    assert env.log.count("rest") == 2


def test_nothing_is_sent_after_a_stop_in_a_reset() -> None:
    env = Arm()

    def evaluated(stop_after: int) -> list[str]:
        env.log.clear()
        played = evaluate(
            paced(env),
            Blank(),
            lambda _: ACTION,
            episodes=2,
            epsilon=0.0,
            rng=np.random.default_rng(0),
            stop=lambda: len(env.log) >= stop_after,
        )
        assert played is None
        return env.log

    assert evaluated(1) == ["reset"]
    assert evaluated(2) == ["reset", [1, -1]]


PROGRAM = """
import os, signal, sys
from seer_edge.envs.guarded import Guarded, ending
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.safety import AskedLimits
from tests.seer_edge.test_paced import Arm

class Logged(Arm):
    def reset(self):
        print("reset", file=sys.stderr)
        if sys.argv[1] == "hang":
            signal.pause()
        return super().reset()

    def rest(self):
        print("rest", file=sys.stderr)

env = Guarded(Logged(), 2.0 if sys.argv[1] == "hang" else None, ending("eval"))
with in_real_time(env, AskedLimits(1000.0)) as playing:
    playing.reset()
    print("stop", file=sys.stderr)
    os.kill(os.getpid(), int(sys.argv[1]))
print("not reached", file=sys.stderr)
"""


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGHUP, "hang"])
def test_a_command_that_a_signal_or_a_hang_ends_brings_the_robot_to_rest(what: Any) -> None:
    word = what if isinstance(what, str) else str(int(what))
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, timeout=WAIT_SECONDS)
    calls = [line for line in done.stderr.splitlines() if not line.startswith("seer-edge eval: ")]
    assert calls == ["rest", "reset", *(["stop"] if word != "hang" else []), "rest"]
    assert done.returncode == (EXIT_UNSAFE if word == "hang" else -what)


@pytest.mark.parametrize(("hz", "warned"), [(2.0, False), (50.0, True)])
def test_a_rate_that_is_not_held_is_reported(
    hz: float, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Arm):
        def step(self, action: Any) -> Step:
            time.sleep(0.05)
            return super().step(action)

    monkeypatch.setattr(logging.getLogger("seer_edge"), "propagate", True)
    with in_real_time(Guarded(Slow(), None), AskedLimits(hz)) as playing:
        playing.reset()
        playing.step(ACTION)
        playing.reset()
    assert any("ticks were missed: the rate was not" in record.message for record in caplog.records) == warned


TWICE = """
import os, signal, sys
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.safety import AskedLimits
from seer_edge.machine.signals import StopSignal
from tests.seer_edge.test_paced import Arm

class Signalled(Arm):
    def reset(self):
        for number in sys.argv[1:]:
            print("signal", file=sys.stderr)
            os.kill(os.getpid(), int(number))
        return super().reset()

    def rest(self):
        print("rest", file=sys.stderr)

with StopSignal() as stop, in_real_time(Guarded(Signalled(), None), AskedLimits(1000.0)) as playing:
    playing.reset()
    print("stopped by", stop.received, file=sys.stderr)
"""
TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.mark.parametrize(
    ("numbers", "status"),
    [((TERM, TERM), -TERM), ((HUP, TERM), -TERM), ((TERM, INT), -INT), ((HUP, HUP), 0), ((TERM, HUP, HUP), 0)],
)
def test_a_second_signal_ends_a_command_at_rest(numbers: tuple[int, ...], status: int) -> None:
    words = [str(int(number)) for number in numbers]
    done = subprocess.run([sys.executable, "-c", TWICE, *words], capture_output=True, text=True, timeout=WAIT_SECONDS)
    lines = done.stderr.splitlines()
    reached = [] if status else [f"stopped by {numbers[0]:d}"]
    wanted = ["rest", *["signal"] * len(numbers), *reached, "rest"]
    assert [line for line in lines if line in {*wanted, "stopped by 15", "stopped by 1"}] == wanted
    assert done.returncode == status


@pytest.mark.parametrize("own", [False, True])
def test_a_command_ignores_sigusr1_outside_the_control_loop(own: bool) -> None:
    before = signal.signal(signal.SIGUSR1, (lambda number, frame: None) if own else signal.SIG_DFL)
    try:
        handler = signal.getsignal(signal.SIGUSR1)
        ignore_pauses()
        ignored = signal.getsignal(signal.SIGUSR1)
        assert ignored is (handler if own else signal.SIG_IGN)
        with PauseSignal() as paused:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert paused() is not own
        assert signal.getsignal(signal.SIGUSR1) is ignored
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("own", [False, True])
def test_sigusr1_toggles_a_pause_unless_the_environment_uses_it(own: bool) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number) if own else None)
    try:
        if not own:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with PauseSignal() as paused:
            states = []
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGUSR1)
                states.append(paused())
        assert states == ([False, False] if own else [True, False])
        assert len(received) == 2 * own
        assert own or signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_end_of_the_run_ends_a_pause() -> None:
    world = paced(Arm())
    world.reset()
    world.paused, world.halted = lambda: True, lambda: True
    assert world.step(ACTION).truncated


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, MemoryError])
def test_the_environment_rests_at_the_start_and_at_every_end(error: type[BaseException] | None) -> None:
    env = Arm()
    world = paced(env)
    with contextlib.suppress(KeyboardInterrupt, MemoryError), world.kept_safe():
        world.reset()
        if error is not None:
            raise error
    assert env.log == ["rest", "reset", "rest"]


def test_a_signal_in_the_last_rest_does_not_prevent_it() -> None:
    class Interrupted(Arm):
        interrupts = 0

        def rest(self) -> None:
            self.interrupts += 1
            if self.interrupts == 2:
                raise KeyboardInterrupt
            super().rest()

    env = Interrupted()
    world = paced(env)
    with pytest.raises(KeyboardInterrupt), world.kept_safe():
        world.reset()
    assert env.log == ["rest", "reset", "rest"]


def test_the_environment_rests_after_its_failure_and_the_error_is_raised() -> None:
    env = Arm()
    world = paced(env)
    env.fails = True

    def control() -> None:
        with world.kept_safe():
            world.reset()
            world.step(ACTION)

    with pytest.raises(EnvironmentFailedError, match="the camera is gone"):
        control()
    assert env.log == ["rest", "reset", [1, -1], "rest"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_runs_at_the_end_if_rest_fails(tmp_path: Path, fails: bool) -> None:
    class Guided(Arm):
        rest_command = ("/bin/sh", "-c", f": > {tmp_path}/stopped")

        def rest(self) -> None:
            super().rest()
            if fails:
                raise OSError("the motors do not answer")

    world = paced(Guided())
    with world.kept_safe():
        world.reset()
    assert (tmp_path / "stopped").exists() == fails
