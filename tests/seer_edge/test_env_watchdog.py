"""The watchdog detects calls that do not return, and nothing else."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from typing import Any

import numpy as np
import pytest

from seer_edge.envs import Discrete, EnvOptions, EnvSpec, Step
from seer_edge.envs.guarded import Guarded, open_guarded
from seer_edge.envs.watchdog import Watchdog

pytestmark = pytest.mark.integration


class Timed:
    """An environment that calls `busy` in each reset, step and close."""

    spec = EnvSpec("Timed-v0", "Timed", (4, 4), (4, 4), Discrete(3))

    def __init__(self, busy: Any) -> None:
        self.busy = busy

    def reset(self) -> Any:
        self.busy()
        return np.zeros((4, 4), np.uint8)

    def step(self, action: int) -> Step:
        return Step(self.reset(), 0.0, False, False, None)

    def close(self) -> None:
        self.busy()


PREAMBLE = """
import ctypes, os, signal, sys, threading, time
from seer_edge.envs.guarded import Guarded
from tests.seer_edge.test_env_watchdog import Timed

def on_hang(line):
    print(line, guarded.failed, threading.current_thread() is not threading.main_thread(), flush=True)
    os._exit(75)
"""


def ended(code: str) -> tuple[int, str, float]:
    """Run `code` in a new process; return its exit status, its output and its duration in seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begin


HANGS = {
    "sleep": "time.sleep(50)",
    "loop": "\n    while True: pass",
    "lock": "threading.Lock().acquire() and threading.Event().wait()",
    "c": "ctypes.CDLL(None).sleep(50)",
    "swallowing": "\n    while True:\n        try: time.sleep(50)\n        except BaseException: pass",
}


@pytest.mark.parametrize("hang", HANGS)
@pytest.mark.parametrize("call", ["reset()", "step(0)", "close()"])
def test_a_hang_is_detected_and_reported(hang: str, call: str) -> None:
    status, output, seconds = ended(f"""
def busy(): {HANGS[hang]}
guarded = Guarded(Timed(busy), 0.3, on_hang)
guarded.{call}
print("continued")
""")
    name = call.partition("(")[0]
    assert (status, output) == (75, f"environment 'Timed-v0': {name} did not return within 0.3 seconds True True\n")
    assert seconds < 30


def test_a_hang_is_detected_in_an_environment_that_was_set_aside() -> None:
    status, output, _ = ended("""
from seer_edge.envs import EnvOptions
from seer_edge.envs.guarded import closing_idle
def busy(): time.sleep(50)
with closing_idle():
    env = Timed(busy)
    env.reseed = int  # as of a Gymnasium environment
    guarded = Guarded(env, 0.3, on_hang)._known_as("Timed-v0", EnvOptions())
    guarded.set_aside()
    time.sleep(1.5)
print("continued")
""")
    assert (status, output) == (75, "environment 'Timed-v0': close did not return within 0.3 seconds True True\n")


def test_a_call_that_returns_after_detection_never_continues() -> None:
    """Even a signal that arrives meanwhile does not let it continue."""
    status, output, _ = ended("""
        def slowly(line):
            for _ in range(5):
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
            print("saved", flush=True)
            os._exit(75)
        guarded = Guarded(Timed(lambda: time.sleep(0.5)), 0.2, slowly)
        try:
            guarded.step(0)
        finally:
            print("continued", flush=True)
        """)
    assert (status, output) == (75, "saved\n")


@pytest.mark.parametrize("fails", ["raise OSError('full disk')", "return"])
def test_the_process_ends_even_if_on_hang_returns_or_raises(fails: str) -> None:
    status, output, _ = ended(f"""
        def badly(line):
            print("tried", flush=True)
            {fails}
        guarded = Guarded(Timed(lambda: time.sleep(50)), 0.2, badly)
        guarded.step(0)
        """)
    assert status == 75
    assert output.startswith("tried\n")
    assert ("OSError: full disk" in output) == ("full disk" in fails)


@pytest.mark.slow
def test_time_in_a_stopped_process_does_not_count() -> None:
    code = PREAMBLE + textwrap.dedent("""
        guarded = Guarded(Timed(lambda: time.sleep(1.5)), 2.5, on_hang)
        print("started", flush=True)
        guarded.step(0)
        guarded.step(0)
        print("continued", flush=True)
        """)
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGSTOP)
    time.sleep(4)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == "continued\n"
    assert child.returncode == 0


def test_slow_calls_and_long_pauses_between_calls_are_not_hangs() -> None:
    hangs: list[str] = []
    guarded = Guarded(Timed(lambda: time.sleep(0.25)), 1.0, hangs.append)
    guarded.reset()
    for _ in range(8):
        guarded.step(0)
    time.sleep(2.5)
    guarded.step(0)
    guarded.close()
    assert hangs == []
    assert not guarded.failed


def test_an_interrupt_at_the_end_of_a_call_is_raised_and_ends_the_call() -> None:
    dog = Watchdog(60.0, print)

    class Interrupting:
        """A lock whose next `with` raises KeyboardInterrupt once, as a signal handler may."""

        def __init__(self, lock: threading.Lock) -> None:
            self.lock, self.armed = lock, True

        def __enter__(self) -> None:
            if self.armed and threading.current_thread() is threading.main_thread():
                self.armed = False
                raise KeyboardInterrupt
            self.lock.acquire()

        def __exit__(self, *unused: object) -> None:
            self.lock.release()

    with pytest.raises(KeyboardInterrupt), dog.watch("step"):
        dog._lock = Interrupting(dog._lock)  # type: ignore[assignment]
    assert dog._call is None
    dog.close()


def test_the_thread_starts_with_the_first_call_and_ends_after_close() -> None:
    def watchdogs() -> int:
        stacks = (traceback.walk_stack(frame) for frame in sys._current_frames().values())
        return sum(any(frame.f_code is Watchdog._run.__code__ for frame, _ in stack) for stack in stacks)

    before = watchdogs()
    guarded = Guarded(Timed(lambda: None), 5.0, print)
    assert watchdogs() == before
    guarded.reset()
    guarded.step(0)
    assert watchdogs() == before + 1
    guarded.close()
    deadline = time.monotonic() + 10
    while watchdogs() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watchdogs() == before


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_the_timeout_must_be_positive_and_finite(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout_seconds must be positive and finite"):
        Guarded(Timed(print), timeout, print)


def test_a_timeout_requires_on_hang() -> None:
    with pytest.raises(ValueError, match="needs on_hang"):
        Guarded(Timed(print), 1.0)


def test_memory_for_the_thread_is_not_a_failure_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(run: Any) -> None:
        raise MemoryError("a new thread did not start within 10 seconds")

    monkeypatch.setattr("seer_edge.envs.watchdog.start_thread", no_memory)
    guarded = Guarded(Timed(lambda: None), 60.0, lambda line: None)
    with pytest.raises(MemoryError):
        guarded.reset()
    assert not guarded.failed
    with pytest.raises(MemoryError):
        open_guarded("Alien", EnvOptions(), seed=0, training=True, timeout_seconds=60.0, on_hang=lambda line: None)
