"""The service's unit, its script, and what happens when its process is killed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from service_drill import DEPLOY, INSTALLED, UNIT, Supervisor, Unit, drill, install  # noqa: E402


def test_the_unit_says_what_a_run_needs() -> None:
    unit = Unit.read(UNIT)
    assert unit.one("Type") == "notify"
    assert unit.one("ExecStart") == f"{INSTALLED}/train-or-resume %S/seer-edge/%i $TRAIN"
    assert unit.one("StateDirectory") == "seer-edge"
    assert unit.one("MemoryMax")
    # Longer than an environment may hang (--env-timeout, 60 s) and the checkpoint that then is written.
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
def test_what_is_started_again(status: int, restarts: bool) -> None:
    assert Unit.read(UNIT).restarts(status) == restarts


def test_systemd_takes_the_unit_where_there_is_one(tmp_path: Path) -> None:
    """Without systemd its settings are still those that this supervisor and systemd know."""
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


def test_a_killed_service_comes_back_and_finishes(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = drill(tmp_path, 700, False, said.append)
    assert supervisor.starts == 2
    assert [line.partition(" ")[0] for line in said] == ["started", "said", "kill", "ended", "started", "said", "ended"]
    summary = json.loads((supervisor.run / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("finished", 700)
    assert summary["resumed_at"]
    assert summary["resumed_at"][0] >= 150


@pytest.mark.slow
def test_a_service_that_hangs_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = drill(tmp_path, 1_500, True, said.append)
    assert supervisor.starts == 3
    assert any("WatchdogSec" in line for line in said)
    summary = json.loads((supervisor.run / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("finished", 1_500)


def test_a_service_that_needs_you_is_not_started_again(tmp_path: Path) -> None:
    install(tmp_path, "--env no_such_module:Camera-v0")
    supervisor = Supervisor(Unit.read(UNIT), tmp_path, "drill", lambda line: None)
    assert supervisor.serve(lambda service: None) == 2
    assert supervisor.starts == 1
    assert "no_such_module" in (tmp_path / "log").read_text()
