"""Settings changed by `resume` are kept, and a run killed before its first checkpoint can be started."""

import dataclasses
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
from seer_runtime import durable
from tests.faults import runs
from tests.faults.test_resume import stop_at

CONFIG = runs.alien(total_timesteps=40, freeze_at=30, eval_every=40)


def die_before_a_checkpoint(send: Any) -> None:
    runs.around_saves(lambda step: os.kill(os.getpid(), signal.SIGKILL))


def die_at_the_first_step(send: Any) -> None:
    runs.at_call("seer_edge.training.session:Session.step", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.fault("SIGKILL before the first checkpoint", promise="`resume` starts the run from step 0 and reports it")
def test_resume_starts_a_run_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    path, log, other = tmp_path / "run", tmp_path / "log", tmp_path / "other"
    assert runs.start(log, runs.train, CONFIG, other).join() == 0
    child = runs.start(log, runs.train_command, CONFIG, path, prepare=die_before_a_checkpoint)
    assert child.join() == -signal.SIGKILL
    assert (path / "config.json").exists()
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert "it has no checkpoint yet and starts at step 0" in log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(other))


def test_resume_does_not_restart_a_run_whose_checkpoints_are_missing(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path).join() == 0
    (path / "checkpoints").rename(tmp_path / "elsewhere")
    assert runs.start(log, runs.command, "resume", path).join() == 2
    assert "no checkpoint was published here" in log.read_text().splitlines()[-1]


@pytest.mark.faults
@pytest.mark.fault("SIGKILL right after a `resume` that changes settings", promise="the changed settings are kept")
def test_changed_settings_survive_a_kill(tmp_path: Path) -> None:
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


def test_other_package_versions_are_reported(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    config = json.loads((path / "config.json").read_text())
    config["versions"]["torch"] = "1.0.0"
    (path / "config.json").write_text(json.dumps(config))
    assert runs.start(log, runs.command, "resume", path).join() == 0
    assert "and was 1.0.0: last bits may differ" in log.read_text()


@pytest.mark.parametrize(
    ("flag", "step", "hint"),
    [
        ("--total-timesteps", "24", "the run is at step 25 already; give more"),
        ("--total-timesteps", "29", "the freeze is at step 30; give that or more"),
        ("--keep-checkpoint", "24", "the run is at step 25; give that or more"),
    ],
)
def test_steps_before_the_present_one_are_rejected(flag: str, step: str, hint: str, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    assert runs.start(log, runs.command, "resume", path, flag, step).join() == 2
    assert log.read_text().splitlines()[-1] == f"seer-edge resume: {flag} {step}: {hint}"


@pytest.mark.parametrize("command", ["resume", "fork"])
def test_snapshots_of_an_encoder_that_is_frozen_already_are_refused(command: str, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (35,))).join() == 143
    target = ("-o", tmp_path / "fork") if command == "fork" else ()
    assert runs.start(log, runs.command, command, path, "--analyze", *target).join() == 2
    line = f"seer-edge {command}: --analyze: the encoder is frozen already and never changes again; leave it out"
    assert log.read_text().splitlines()[-1] == line


def test_kept_checkpoints_stay_if_resume_keeps_other_ones(tmp_path: Path) -> None:
    path, log, config = tmp_path / "run", tmp_path / "log", dataclasses.replace(CONFIG, keep_checkpoint=(10,))
    assert runs.start(log, runs.train, config, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    assert runs.start(log, runs.command, "resume", path, "--keep-checkpoint", "28").join() == 0, log.read_text()
    assert {10, 28} <= set(durable.checkpoint_steps(path / "checkpoints"))
    assert checkpoint.newest(path / "checkpoints").config.keep_checkpoint == (10, 28)


def test_a_disk_too_small_for_three_checkpoints_is_reported(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(log, runs.train_command, CONFIG, path, prepare=a_small_disk)
    assert child.join() == 0
    assert f"warning: {path}: 1.0 MB are free, and three checkpoints may take" in log.read_text()


def a_small_disk(send: Any) -> None:
    shutil.disk_usage = lambda path: type("Usage", (), {"free": 1_000_000})  # type: ignore[assignment]


def test_resume_of_a_finished_run_reports_that_flags_have_no_effect(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path).join() == 0
    assert runs.start(log, runs.command, "resume", path, "--threads", "2").join() == 0
    assert log.read_text().splitlines()[-1].endswith("is undamaged; the flags change nothing")


def test_no_checkpoint_is_written_without_a_new_step(tmp_path: Path) -> None:
    """A run that exceeds its limit at the start would otherwise write a checkpoint to the SD card at each restart."""
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train, CONFIG, path, prepare=functools.partial(stop_at, (25,))).join() == 143
    before = (runs.newest(path) / "manifest.json").stat().st_mtime_ns
    child = runs.start(log, runs.command, "resume", path, prepare=over_its_limit)
    assert child.join() == 75, log.read_text()
    assert (runs.newest(path) / "manifest.json").stat().st_mtime_ns == before


def over_its_limit(send: Any) -> None:
    make = Run.__init__

    def begin(run: Run, *args: Any) -> None:
        make(run, *args)
        run.ceiling = seer_edge.training.run.RssCeiling(1_000)

    Run.__init__ = begin  # type: ignore[method-assign]
