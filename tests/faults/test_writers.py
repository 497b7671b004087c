"""A run has one writer, readers may run at the same time, and jumps of the clock have no effect."""

import functools
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from seer_edge.training.session import Session, StepReport
from tests.faults import runs

TEN_YEARS = 10 * 365 * 24 * 3600
PACE_SECONDS = 4.0
"""Allowed time between checkpoints that are due each second, on a busy machine."""


def slowly(seconds: float, send: Any) -> None:
    """In the child, send the number of each step and sleep for `seconds` before it."""
    step = Session.step

    def stepping(session: Session) -> StepReport:
        send(session.timestep)
        time.sleep(seconds)
        return step(session)

    Session.step = stepping  # type: ignore[method-assign]


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def start_learning(path: Path, **changes: Any) -> runs.Child:
    """Start a run and return once it learns."""
    child = runs.start(
        path.with_suffix(".first"),
        runs.train_command,
        runs.alien(**changes),
        path,
        prepare=functools.partial(slowly, 0.05),
    )
    runs.wait_until(lambda: any(step > 20 for step in child.messages()))
    return child


@pytest.mark.fault(
    "a second `resume` or `train` on a folder in use", promise="exit 2 with one line; nothing is changed"
)
def test_a_second_writer_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = start_learning(path)
    pid = first.process.pid or 0
    os.kill(pid, signal.SIGSTOP)
    before = contents(path)
    resumed, trained = tmp_path / "resumed", tmp_path / "trained"
    assert runs.start(resumed, runs.command, "resume", path).join() == 2
    assert resumed.read_text() == f"seer-edge resume: {path}: in use by process {pid}; wait until it ends, or stop it\n"
    assert runs.start(trained, runs.train_command, runs.alien(), path).join() == 2
    assert trained.read_text().startswith(f"seer-edge train: --run-dir {path}: not empty; ")
    assert trained.read_text().count("\n") == 1
    assert contents(path) == before
    first.kill()
    # The lock ended with its process.
    assert runs.start(resumed, runs.command, "resume", path).join() == 0, resumed.read_text()


@pytest.mark.fault("two `train` on the same new folder at once", promise="one runs, the other ends with exit 2")
@pytest.mark.parametrize("trial", [0, *(pytest.param(trial, marks=pytest.mark.faults) for trial in (1, 2))])
def test_one_of_two_simultaneous_runs_is_rejected(trial: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = runs.alien(total_timesteps=25, freeze_at=None)
    logs = [tmp_path / "a", tmp_path / "b"]
    children = [runs.start(log, runs.train_command, config, path) for log in logs]
    assert sorted(child.join() for child in children) == [0, 2]
    assert json.loads((path / "summary.json").read_text())["status"] == "finished"


@pytest.mark.fault("`eval` of a run that writes and removes checkpoints meanwhile", promise="every evaluation succeeds")
@pytest.mark.parametrize("evaluations", [2, pytest.param(12, marks=pytest.mark.faults)])
def test_eval_works_while_the_run_writes(evaluations: int, tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "run"
    first = start_learning(path, checkpoint_every_steps=1, total_timesteps=100_000, freeze_at=90)
    for number in range(evaluations):
        log = tmp_path / f"eval{number}"
        words = ("eval", path, "--episodes", "1", "--json")
        assert runs.start(log, runs.command, *words).join() == 0, log.read_text()
        assert len(json.loads(log.read_text().splitlines()[-1])["returns"]) == 1
        assert "Traceback" not in log.read_text()
    assert first.process.is_alive()
    first.kill()
    record_property("trials", evaluations)


# --- the clock ---------------------------------------------------------------------------------------------


def set_back(step: int, send: Any) -> None:
    """In the child, set time.time ten years back from `step` on, and send each checkpoint with its monotonic time."""
    now, monotonic = time.time, time.monotonic

    def act() -> None:
        time.time = lambda: now() - TEN_YEARS

    runs.at_call("seer_edge.training.session:Session.step", step, act)
    runs.around_saves(after=lambda step, path: send((monotonic(), path.name)))
    slowly(0.05, lambda step: None)


@pytest.mark.faults
@pytest.mark.fault(
    "Python's clock is set back ten years during a run", promise="the run is the same; timed checkpoints continue"
)
def test_a_clock_set_back_does_not_change_the_run(tmp_path: Path) -> None:
    config = runs.alien(total_timesteps=80, freeze_at=60, checkpoint_every_steps=None, checkpoint_every_seconds=1.0)
    straight, path, log = tmp_path / "straight", tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train_command, config, straight).join() == 0, log.read_text()
    child = runs.start(log, runs.train_command, config, path, prepare=functools.partial(set_back, 25))
    assert child.join() == 0, log.read_text()
    saved = child.messages()
    # Only timed checkpoints, not those at the start, the freeze and the end.
    due = [moment for moment, name in saved if not name.endswith(("00", "60", "80"))]
    assert len(due) >= 2
    assert all(later - earlier < PACE_SECONDS for (earlier, _), (later, _) in itertools.pairwise(saved))
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(straight))
    assert runs.results(path) == runs.results(straight)
