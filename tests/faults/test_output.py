"""Output that nobody takes, and signals that were ignored at the start: neither ends a run."""

import functools
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.test_resume import stop_at

PLAIN = {"total_timesteps": 40, "freeze_at": 30, "eval_every": 40}


def trained(path: Path, log: Path, step: int = 25) -> None:
    prepare = functools.partial(stop_at, (step,))
    assert runs.start(log, runs.train_command, runs.alien(**PLAIN), path, prepare=prepare).join() == 143, (
        log.read_text()
    )


OUTPUT = pytest.mark.fault(
    "stdout or stderr is a full disk, closed, a dead reader's or a closed terminal's",
    promise="the run goes on to its end",
)


@OUTPUT
@pytest.mark.parametrize("redirection", ["2>/dev/full", ">/dev/full", "2>&-", ">&-", "2> >(exit 0)"])
def test_output_that_nobody_takes(redirection: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, tmp_path / "log")
    command = f"{sys.executable} -m seer_edge resume {path} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert runs.newest(path).name == "step_0000000040"


@OUTPUT
def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The hang-up signal comes with it: a checkpoint and 129, though nothing can be said any more."""
    path = tmp_path / "run"
    trained(path, tmp_path / "log")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "seer_edge", "resume", str(path), "--total-timesteps", "100000"]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    runs.wait_until(lambda: runs.newest(path).name > "step_0000000040", 120)
    os.close(ours)
    child.send_signal(signal.SIGHUP)
    assert child.wait(30) == 129


@pytest.mark.fault("SIGHUP under nohup", promise="it stays ignored; the run goes on to its end")
def test_a_signal_that_was_ignored_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trained(path, tmp_path / "log")
    command = f"trap '' HUP; exec {sys.executable} -m seer_edge resume {path}"
    child = subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    while "resumed at step" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    child.stderr.close()
    assert child.wait(120) == 0
