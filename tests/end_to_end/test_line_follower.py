"""docs/examples/line_follower.py, an environment with a camera: it trains and acts, and a camera that fails ends it."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from seer_edge.config.presets import PRESETS
from seer_edge.config.presets.atari import ATARI_DEFAULT
from tests.end_to_end.short_presets import RAINBOW, Run, runner, short

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
ENV = ("--env", "line_follower:LineFollower-v0", "--env-kwargs")
PATIENT = {"max_age": 10}  # on a loaded machine

pytestmark = pytest.mark.integration


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    preset = short(ATARI_DEFAULT, "LineFollower-v0", RAINBOW, None)
    monkeypatch.setitem(PRESETS, ("linefollower-v0", "rainbow"), preset)
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return runner(monkeypatch, capsys)


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the simulated robot."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import line_follower  # type: ignore[import-not-found]

    return line_follower.FakeRobot


@pytest.mark.parametrize("kind", ["simulated", "video"])
def test_the_example_trains_and_acts(kind: str, robot: Any, run: Run, tmp_path: Path) -> None:
    kwargs = {"fps": 200, **PATIENT}
    if kind == "video":
        recorded, path = robot(10_000), tmp_path / "lap.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 200, (160, 120))
        for _ in range(40):
            writer.write(recorded.read()[1])
        writer.release()
        kwargs = {"source": str(path), **PATIENT}
    folder, bundle = tmp_path / "run", tmp_path / "policy.seer"
    words = ("--total-timesteps", "200", "--eval-max-steps", "20", "--run-dir", folder)
    status, printed, error = run("train", *ENV, json.dumps(kwargs), *words)
    assert status == 0, error
    assert "frames 42x42" in printed
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["timesteps"], summary["status"], summary["freeze_refused"]) == (200, "finished", None)
    assert 0 < summary["eval"]["mean_return"] <= 20
    assert run("export", folder, "-o", bundle)[0] == 0
    status, printed, error = run("act", bundle, "--episodes", "1", "--json")
    assert status == 0, error
    [episode_return] = json.loads(printed)["returns"]
    assert episode_return <= 300


def test_a_camera_that_disappears_ends_the_run_with_a_checkpoint_and_a_safe_action(
    robot: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, steer = robot.read, robot.steer
    turns: list[float] = []

    def steered(self: Any, turn: float) -> None:
        turns.append(turn)
        steer(self, turn)

    def unplugged(self: Any) -> Any:
        return read(self) if len(turns) <= 60 else (False, None)

    folder, kwargs = tmp_path / "run", json.dumps({"fps": 200, "max_age": 1})
    with monkeypatch.context() as patch:
        patch.setattr(robot, "read", unplugged)
        patch.setattr(robot, "steer", steered)
        status, _, error = run("train", *ENV, kwargs, "--run-dir", folder)
    assert status == 75
    assert turns[-1] == 0  # the environment was closed
    step = json.loads((folder / "summary.json").read_text())["timesteps"]
    line = f"the environment failed after step {step}: camera FakeRobot: its newest image is "
    [failed] = [each for each in error.splitlines() if line in each]
    assert failed.endswith("s old, more than max_age=1, because it returns no image; check its cable and power")
    status, _, error = run("resume", folder)
    assert status == 0, error
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["resumed_at"]) == ("finished", [step])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (97, "camera 97: there is no /dev/video97; check its cable and its number"),
        ("lost.avi", "video lost.avi: there is no such file; check the path"),
    ],
)
def test_a_camera_that_is_missing_is_bad_input(source: Any, reason: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, printed, error = run("train", *ENV, json.dumps({"source": source}), "--run-dir", folder)
    assert (status, printed) == (2, "")
    assert error == f"seer-edge train: --env line_follower:LineFollower-v0: cannot be built: {reason}\n"
    assert not folder.exists()
