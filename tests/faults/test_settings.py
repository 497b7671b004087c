"""What a user changes with `resume` stays changed, and a run that was killed at its very start begins."""

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import seer_edge.training.run
from seer_edge.runs import checkpoint
from seer_edge.training.run import Run
from tests.faults import runs
from tests.faults.test_resume import stop_at

CONFIG = runs.alien(total_timesteps=40, freeze_at=30, eval_every=40)


def die_before_a_checkpoint(tell: Any) -> None:
    def saving(*unused: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = saving  # type: ignore[assignment]


def die_at_the_first_step(tell: Any) -> None:
    runs.at_call("seer_edge.training.session:Session.step", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.fault("SIGKILL before the first checkpoint", promise="`resume` begins the run and says so")
def test_a_run_killed_before_its_first_checkpoint_begins(tmp_path: Path) -> None:
    path, log, other = tmp_path / "run", tmp_path / "log", tmp_path / "other"
    assert runs.start(log, runs.train, CONFIG, other).join() == 0
    child = runs.start(log, runs.train_command, CONFIG, path, prepare=die_before_a_checkpoint)
    assert child.join() == -signal.SIGKILL
    assert (path / "config.json").exists()
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert "it has no checkpoint yet and starts at step 0" in log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(other))


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path).join() == 0
    (path / "checkpoints").rename(tmp_path / "elsewhere")
    assert runs.start(log, runs.command, "resume", path).join() == 2
    assert "no checkpoint was published here" in log.read_text().splitlines()[-1]


@pytest.mark.fault(
    "SIGKILL right after a `resume` with other settings", promise="the settings stay as they were changed"
)
def test_changed_settings_outlive_a_kill(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    words = ("--mem-budget", str(50 * 7056), "--total-timesteps", "50", "--checkpoint-every", "1h")
    child = runs.start(log, runs.command, "resume", path, *words, prepare=die_at_the_first_step)
    assert child.join() == -signal.SIGKILL, log.read_text()
    saved = checkpoint.newest(path / "checkpoints").config
    assert (saved.mem_budget_bytes, saved.total_timesteps) == (50 * 7056, 50)
    assert (saved.checkpoint_every_steps, saved.checkpoint_every_seconds) == (None, 3600.0)
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert runs.newest(path).name == "step_0000000050"


def test_other_versions_are_said(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    config = json.loads((path / "config.json").read_text())
    config["versions"]["torch"] = "1.0.0"
    (path / "config.json").write_text(json.dumps(config))
    assert runs.start(log, runs.command, "resume", path).join() == 0
    assert "and was 1.0.0: last bits may differ" in log.read_text()


@pytest.mark.parametrize(
    ("total_timesteps", "mend"),
    [("24", "the run is at step 25 already; give more"), ("29", "the freeze is at step 30; give more")],
)
def test_a_run_cannot_end_where_it_has_been(total_timesteps: str, mend: str, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    assert runs.start(log, runs.command, "resume", path, "--total-timesteps", total_timesteps).join() == 2
    assert log.read_text().splitlines()[-1] == f"seer-edge resume: --total-timesteps {total_timesteps}: {mend}"


def test_a_disk_too_small_for_three_checkpoints_is_said(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(log, runs.train_command, CONFIG, path, prepare=a_small_disk)
    assert child.join() == 0
    assert f"warning: {path}: 1.0 MB are free, and three checkpoints may take" in log.read_text()


def a_small_disk(tell: Any) -> None:
    shutil.disk_usage = lambda path: type("Usage", (), {"free": 1_000_000})  # type: ignore[assignment]


def test_a_finished_run_says_that_flags_change_nothing(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path).join() == 0
    assert runs.start(log, runs.command, "resume", path, "--threads", "2").join() == 0
    assert log.read_text().splitlines()[-1].endswith("is sound; the flags change nothing")


def test_nothing_is_written_anew_where_no_step_was_made(tmp_path: Path) -> None:
    """A run that is over its limit as it begins does not wear the card out, one checkpoint a restart."""
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    before = (runs.newest(path) / "manifest.json").stat().st_mtime_ns
    child = runs.start(log, runs.command, "resume", path, prepare=over_its_limit)
    assert child.join() == 75, log.read_text()
    assert (runs.newest(path) / "manifest.json").stat().st_mtime_ns == before


def over_its_limit(tell: Any) -> None:
    make = Run.__init__

    def begin(run: Run, *args: Any) -> None:
        make(run, *args)
        run.ceiling = seer_edge.training.run.RssCeiling(1_000)

    Run.__init__ = begin  # type: ignore[method-assign]
