"""The process that brings a robot to rest when the program is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from seer_edge.envs import rest_guard
from seer_edge.envs.rest_process import RestProcess

WAIT_SECONDS = 60
BYTES_MAX = 12_000_000
PROGRAM = """
import os, sys, time
from seer_edge.envs.rest_process import RestProcess
process = RestProcess(sys.argv[2:])
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(1000)
print(process.pid, flush=True)
time.sleep(1000)
"""


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Program:
    """A program with a `RestProcess` whose command writes the file `stopped`."""

    def __init__(self, folder: Path, what: str = "") -> None:
        self.stopped = folder / "stopped"
        command = ["/bin/sh", "-c", f"echo stop >> {self.stopped}"]
        words = [sys.executable, "-c", PROGRAM, what, *command]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.guard = psutil.Process(int(self.process.stdout.readline()))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        for child in psutil.Process(self.process.pid).children() if self.process.poll() is None else []:
            child.kill()
        self.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def begin(what: str = "") -> Program:
        programs.append(Program(tmp_path, what))
        return programs[-1]

    yield begin
    for program in programs:
        program.end()


def test_a_killed_program_is_brought_to_rest_once(start: Callable[..., Program]) -> None:
    program = start()
    assert not program.stopped.exists()
    program.kill()
    wait_for(lambda: not program.guard.is_running())
    assert program.stopped.read_text() == "stop\n"


def test_the_process_is_small(start: Callable[..., Program]) -> None:
    assert start().guard.memory_info().rss < BYTES_MAX


def test_signals_to_all_processes_leave_the_process_alone(start: Callable[..., Program]) -> None:
    program = start()
    assert os.getsid(program.guard.pid) == program.guard.pid, "Ctrl-C reaches only the session of the terminal"
    for number in rest_guard.SIGNALS:
        program.guard.send_signal(number)
    program.process.terminate()
    program.process.wait()
    wait_for(lambda: not program.guard.is_running())
    assert program.stopped.read_text() == "stop\n"


def test_a_child_that_survives_the_program_does_not_keep_it_moving(start: Callable[..., Program]) -> None:
    program = start("fork")
    (child,) = (each for each in psutil.Process(program.process.pid).children() if each.pid != program.guard.pid)
    try:
        program.kill()
        wait_for(program.stopped.exists)
        assert child.is_running()
    finally:
        child.kill()


def test_a_stopped_program_is_not_a_killed_one(start: Callable[..., Program]) -> None:
    program = start()
    program.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    assert program.guard.is_running()
    assert not program.stopped.exists()
    program.process.send_signal(signal.SIGCONT)


def test_the_process_ends_with_the_run(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    process = RestProcess(["/bin/sh", "-c", f": > {stopped}"])
    process.end(in_order=True)
    assert not psutil.pid_exists(process.pid)
    assert not stopped.exists()


def test_the_process_rests_the_robot_if_rest_has_failed(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    RestProcess(["/bin/sh", "-c", f": > {stopped}"]).end(in_order=False)
    assert stopped.exists()


def test_a_command_that_fails_is_tried_again(tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    RestProcess(["/bin/sh", "-c", f"echo x >> {tried}; [ $(wc -l < {tried}) = 3 ]"]).end(in_order=False)
    assert tried.read_text() == 3 * "x\n"
