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

from seer_edge.envs import Discrete, EnvSpec, Step
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.watchdog import Watchdog


class Timed:
    """Calls `busy` in each reset, step and close."""

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
    """Exit status, output and seconds of `code`."""
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
def test_a_hang_is_noticed_and_named(hang: str, call: str) -> None:
    status, said, seconds = ended(f"""
def busy(): {HANGS[hang]}
guarded = Guarded(Timed(busy), 0.3, on_hang)
guarded.{call}
print("went on")
""")
    name = call.partition("(")[0]
    assert (status, said) == (75, f"environment 'Timed-v0': {name} has not come back for 0.3 seconds True True\n")
    assert seconds < 30


def test_a_call_that_comes_back_meanwhile_does_not_go_on_not_even_by_a_signal() -> None:
    status, said, _ = ended("""
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
            print("went on", flush=True)
        """)
    assert (status, said) == (75, "saved\n")


@pytest.mark.parametrize("fails", ["raise OSError('full disk')", "return"])
def test_a_process_whose_hang_is_handled_badly_ends_all_the_same(fails: str) -> None:
    status, said, _ = ended(f"""
        def badly(line):
            print("tried", flush=True)
            {fails}
        guarded = Guarded(Timed(lambda: time.sleep(50)), 0.2, badly)
        guarded.step(0)
        """)
    assert status == 75
    assert said.startswith("tried\n")
    assert ("OSError: full disk" in said) == ("full disk" in fails)


def test_a_process_that_was_stopped_has_not_hung() -> None:
    code = PREAMBLE + textwrap.dedent("""
        guarded = Guarded(Timed(lambda: time.sleep(1.5)), 2.5, on_hang)
        print("begun", flush=True)
        guarded.step(0)
        guarded.step(0)
        print("went on", flush=True)
        """)
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGSTOP)
    time.sleep(4)
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == "went on\n"
    assert child.returncode == 0


def test_slow_calls_and_long_pauses_between_them_are_no_hangs() -> None:
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


def test_an_interrupt_while_coming_back_is_raised_and_the_call_is_over() -> None:
    dog = Watchdog(60.0, print)

    class Interrupting:
        """A lock whose next `with` is interrupted once, as a signal's handler may."""

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


def test_a_thread_begins_with_the_first_call_and_ends_after_close() -> None:
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
def test_a_timeout_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(ValueError, match="a timeout is a positive number of seconds"):
        Guarded(Timed(print), timeout, print)


def test_a_timeout_needs_to_know_what_to_do() -> None:
    with pytest.raises(ValueError, match="what to do about a hang"):
        Guarded(Timed(print), 1.0)
