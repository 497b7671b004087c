"""Failing environments: refused if they fail at the start, else the run ends with a checkpoint."""

import json
import sys
from pathlib import Path

import pytest

from seer_edge.cli import main
from seer_runtime import durable
from tests.end_to_end.failing_env import FAILS_AT_STEP

MODULE = "tests.end_to_end.failing_env"


def train(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    arguments = ["train", "--env", f"{MODULE}:Failing/{how}-v0", "--mem-budget", "2MB", "--total-timesteps", "400"]
    arguments += ["--set", "reward_clip=none"]
    monkeypatch.setattr(sys, "argv", ["seer-edge", *arguments, "--freeze-at", "200", "--run-dir", str(folder)])
    return main()


@pytest.mark.parametrize(
    ("how", "reason"), [("build", "no camera"), ("reset", "camera is asleep"), ("dtype", "float64")]
)
def test_a_failure_at_the_start_is_refused_before_anything_is_written(
    how: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(how, tmp_path / "run", monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"Failing/{how}-v0" in error
    assert reason in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("step", "RuntimeError: cable pulled (failing_env.py:"),
        ("shape", "uint8 [41, 42]"),
        ("reward", "the reward is nan"),
        ("huge", "the reward is 1e+19, which is too large to learn from"),
    ],
)
def test_a_failure_during_training_exits_with_75_and_a_checkpoint(
    how: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(how, tmp_path / "run", monkeypatch) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"the environment failed after step {FAILS_AT_STEP - 1}" in last
    assert reason in last
    saved = durable.newest_checkpoint(tmp_path / "run/checkpoints")
    assert saved.manifest["timestep"] == FAILS_AT_STEP - 1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("failed", FAILS_AT_STEP - 1)
