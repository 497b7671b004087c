"""Unwritable output and signals that were ignored at the start do not end a run."""

import functools
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.test_resume import stop_at

PLAIN = {"total_timesteps": 40, "freeze_at": 30, "eval_every": 40}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at step 25."""
    folder = tmp_path_factory.mktemp("stopped")
    log, prepare = folder / "log", functools.partial(stop_at, (25,))
    child = runs.start(log, runs.train_command, runs.alien(**PLAIN), folder / "run", prepare=prepare)
    assert child.join() == 143, log.read_text()
    return folder / "run"


@pytest.fixture
def path(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(stopped, tmp_path / "run")


OUTPUT = pytest.mark.fault(
    "stdout or stderr is a full disk, closed, a broken pipe or a closed terminal",
    promise="the run continues to its end, or stops with a checkpoint on the terminal's SIGHUP",
)


@OUTPUT
@pytest.mark.parametrize(
    "redirection",
    [
        "2>/dev/full",
        *(pytest.param(each, marks=pytest.mark.faults) for each in (">&-", ">/dev/full", "2>&-", "2> >(exit 0)")),
    ],
)
def test_a_run_continues_without_its_output(redirection: str, path: Path) -> None:
    command = f"{sys.executable} -m seer_edge resume {path} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert runs.newest(path).name == "step_0000000040"


@pytest.mark.fault("stdout is a full disk", promise="a command whose result is lost says so and exits with 2")
@pytest.mark.parametrize("words", ["presets Alien", "plan --env Alien --total-timesteps 100"])
def test_a_result_that_is_lost_is_an_error(words: str) -> None:
    command = f"{sys.executable} -m seer_edge {words} >/dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    line = "stdout: cannot be written (No space left on device); send the result elsewhere"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"seer-edge {words.split()[0]}: {line}")


@OUTPUT
def test_a_closed_terminal_stops_the_run_with_a_checkpoint(path: Path) -> None:
    """It sends SIGHUP: the run exits with 129 although it cannot print."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "seer_edge", "resume", str(path), "--total-timesteps", "100000"]
    child = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    runs.wait_until(lambda: runs.newest(path).name > "step_0000000040", 120)
    os.close(controller)
    child.send_signal(signal.SIGHUP)
    assert child.wait(30) == 129


@pytest.mark.faults
@pytest.mark.fault("SIGHUP under nohup", promise="the signal stays ignored; the run continues to its end")
def test_a_signal_ignored_at_the_start_stays_ignored(path: Path) -> None:
    command = f"trap '' HUP; exec {sys.executable} -m seer_edge resume {path}"
    child = subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    while "resumed at step" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    child.stderr.close()
    assert child.wait(120) == 0
