"""The service's unit and script, and the service's recovery when its process is killed or hangs."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from commandline import FaultError  # noqa: E402
from service_drill import DEPLOY, INSTALLED, UNIT, Supervisor, Unit, drill, install  # noqa: E402


def test_the_unit_has_the_settings_that_a_run_needs() -> None:
    unit = Unit.read(UNIT)
    assert unit.one("Type") == "notify"
    assert unit.one("ExecStart") == f"{INSTALLED}/train-or-resume %S/seer-edge/%i $TRAIN"
    assert unit.one("StateDirectory") == "seer-edge"
    assert unit.one("MemoryMax")
    # Longer than an environment may hang (--env-timeout, 60 s) plus the checkpoint that is written then.
    assert unit.seconds("WatchdogSec") == 300
    assert unit.seconds("RestartSec") == 30
    assert unit.seconds("TimeoutStopSec") == 180


@pytest.mark.parametrize(
    ("status", "restarts"),
    [
        *((0, False), (2, False), (143, False), (75, True), (1, True), (130, True)),
        *((-signal.SIGKILL, True), (-signal.SIGABRT, True), (-signal.SIGSEGV, True), (-signal.SIGTERM, False)),
    ],
)
def test_the_unit_restarts_after_failures_only(status: int, restarts: bool) -> None:
    assert Unit.read(UNIT).restarts(status) == restarts


def test_systemd_accepts_the_unit_where_it_is_installed(tmp_path: Path) -> None:
    """Without systemd only the placeholders are checked."""
    text = UNIT.read_text()
    for name in ("%i", "%S", "$TRAIN"):
        assert name in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    shutil.copy(DEPLOY / "train-or-resume", tmp_path)
    unit = tmp_path / "seer-edge@camera.service"
    unit.write_text(text.replace(INSTALLED, str(tmp_path)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(text.replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in subprocess.run([analyze, "verify", unit], capture_output=True, text=True).stderr


@pytest.mark.slow
def test_a_killed_service_restarts_and_finishes(tmp_path: Path) -> None:
    events: list[str] = []
    supervisor = drill(tmp_path, 700, False, events.append)
    assert supervisor.starts == 2
    first_words = [line.partition(" ")[0] for line in events]
    assert first_words == ["started", "reported", "kill", "ended", "started", "reported", "ended"]
    summary = json.loads((supervisor.run / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("finished", 700)
    assert summary["resumed_at"]
    assert summary["resumed_at"][0] >= 150


@pytest.mark.slow
def test_the_watchdog_ends_a_service_that_hangs(tmp_path: Path) -> None:
    events: list[str] = []
    supervisor = drill(tmp_path, 1_500, True, events.append)
    assert supervisor.starts == 3
    assert any("WatchdogSec" in line for line in events)
    summary = json.loads((supervisor.run / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("finished", 1_500)


def test_a_service_with_bad_input_is_not_restarted(tmp_path: Path) -> None:
    install(tmp_path, "--env no_such_module:Camera-v0")
    supervisor = Supervisor(Unit.read(UNIT), tmp_path, "drill", lambda line: None)
    assert supervisor.serve(lambda service: None) == 2
    assert supervisor.starts == 1
    assert "no_such_module" in (tmp_path / "log").read_text()


def test_a_service_that_never_becomes_ready_is_not_restarted_without_end(tmp_path: Path) -> None:
    install(tmp_path, "--env Alien")
    (tmp_path / "venv/bin/seer-edge").write_text("#!/bin/sh\necho a reason >&2\nexit 1\n")
    supervisor = Supervisor(Unit.read(UNIT), tmp_path, "drill", lambda line: None)
    with pytest.raises(FaultError, match="the service ended with 1 before it was ready; its last line is: a reason"):
        supervisor.serve(lambda service: None)
    supervisor.close()
    assert supervisor.starts == 1
