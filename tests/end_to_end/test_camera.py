"""docs/examples/camera_env.py, an environment of a user's own, trained as docs/camera.md says."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from seer_edge.config.presets import PRESETS
from seer_edge.config.presets.atari import ATARI_DEFAULT
from seer_edge.config.presets.control import CONTROL_DEFAULT
from tests.end_to_end.short_presets import RAINBOW, SAC, Run, runner, short

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setitem(PRESETS, ("camera-v0", "rainbow"), short(ATARI_DEFAULT, "Camera-v0", RAINBOW, None))
    monkeypatch.setitem(PRESETS, ("smoothcamera-v0", "curl-sac"), short(CONTROL_DEFAULT, "SmoothCamera-v0", SAC, 4))
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("env", "flags", "algo", "frame", "latent_row"),
    [
        ("Camera-v0", (), "rainbow", (84, 84), 4 * 576),
        ("Camera-v0", ("--color", "rgb", "--mem-budget", "1MB"), "rainbow", (3, 84, 84), 4 * 576),
        ("SmoothCamera-v0", ("--resolution", "25"), "curl-sac", (3, 25, 25), 4 * 2 * 4 * SAC.features),
        pytest.param(
            *("SmoothCamera-v0", ("--resolution", "25", "--color", "gray"), "curl-sac", (25, 25), 8 * 4 * SAC.features),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_example_trains_through_its_freeze(
    env: str, flags: tuple[str, ...], algo: str, frame: tuple[int, ...], latent_row: int, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    status, printed, error = run("train", "--env", f"camera_env:{env}", *flags, "--run-dir", folder)
    assert status == 0, error
    assert f"frames {'x'.join(map(str, frame))}" in printed
    assert "protocol" not in printed
    assert "action repeat" not in printed
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algo"], summary["status"], summary["freeze_refused"]) == (algo, "finished", None)
    assert summary["replay"]["frame_row_bytes"] == np.prod(frame)
    assert summary["replay"]["latent_row_bytes"] == latent_row
    assert summary["freeze"]["rows"] == 30
    status, printed, error = run("eval", folder, "--episodes", "1", "--json")
    assert status == 0, error
    assert json.loads(printed)["episodes"] == 1
    status, printed, error = run("resume", folder, "--total-timesteps", "80")
    assert status == 0, error
    assert json.loads((folder / "summary.json").read_text())["timesteps"] == 80


def random_return(env: gymnasium.Env[object, int], episodes: int) -> float:
    """Mean over whole episodes of a policy that looks at nothing."""
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(episodes):
        env.reset(seed=int(rng.integers(2**31)))
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(int(rng.integers(3)))
            total += float(reward)
            over = terminated or truncated
    return total / episodes


@pytest.mark.slow
def test_the_example_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    words = ["--env", "camera_env:Camera-v0", "--resolution", "42", "--mem-budget", "4MB"]
    words += ["--total-timesteps", "8000", "--freeze-at", "4000"]
    folder = tmp_path / "run"
    subprocess.run([sys.executable, "-m", "seer_edge", "train", *words, "--run-dir", folder], check=True, timeout=600)
    with (folder / "progress.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    chance = random_return(gymnasium.make("camera_env:Camera-v0"), 20)
    print(f"chance {chance:.1f}")
    assert float(last["eval/mean_reward"]) > 1.15 * chance
