"""`act` and `eval BUNDLE`: bundles play as their runs do, and `act` reports and records its episodes."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest

from seer_runtime import durable
from seer_runtime.policy.bundle import open_bundle
from tests.end_to_end.short_presets import CONTROL, GAME, PIXEL_GAME, Run
from tests.seer_edge.env_registry import register

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "flags",
    [
        (*PIXEL_GAME, "--total-timesteps", "60"),
        (*PIXEL_GAME, "--freeze-at", "never", "--total-timesteps", "40"),
        (*PIXEL_GAME, "--freeze-layers", "1", "--total-timesteps", "60"),
        pytest.param((*CONTROL, "--total-timesteps", "40"), marks=pytest.mark.slow),
    ],
    ids=["frozen", "unfrozen", "partly", "control"],
)
def test_a_bundle_plays_as_its_run_does(run: Run, flags: tuple[str, ...], tmp_path: Path) -> None:
    assert run("train", *flags, "--run-dir", tmp_path / "run")[0] == 0
    assert run("export", tmp_path / "run", "-o", tmp_path / "p.seer")[0] == 0
    for more in ((), ("--episodes", "3", "--seed", "5")):
        _, wanted, _ = run("eval", tmp_path / "run", "--json", *more)
        status, got, _ = run("eval", tmp_path / "p.seer", "--json", *more)
        assert status == 0
        answer, expected = json.loads(got), json.loads(wanted)
        returns = answer.pop("returns"), expected.pop("returns")
        np.testing.assert_allclose(*returns, rtol=1e-3)  # controls differ in the last bits
        assert {"env", "timestep", "episodes"} <= expected.keys() <= answer.keys()
    status, _, error = run("eval", tmp_path / "run", "--episodes", "10001")
    assert (status, error) == (2, "seer-edge eval: --episodes 10001: give at most 10,000, or evaluate its bundle\n")


def test_act_prints_returns_and_latencies(run: Run, bundle: Path) -> None:
    status, out, error = run("act", bundle, "--episodes", "2", "--seed", "3")
    assert (status, error) == (0, "")
    about, returns, latency, rss = out.splitlines()
    assert about == f"{GAME}, step 75, 2 episodes"
    assert re.fullmatch(r"return [\d.]+ ± [\d.]+: \d+ \d+", returns)
    assert re.fullmatch(r"frame to action, 40 steps: p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms", latency)
    assert rss.startswith("RSS peak ")
    assert run("act", bundle, "--episodes", "2", "--seed", "3", *PIXEL_GAME)[1].splitlines()[:2] == [about, returns]
    random = [run("act", bundle, "--epsilon", "1", "--seed", seed)[1].splitlines()[1] for seed in ("3", "4")]
    assert random[0] != random[1]


def test_act_records_what_the_policy_sees(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert run("act", bundle, "--episodes", "1", "--record", tmp_path / "film.mp4")[0] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]
    video = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    sides = video.get(cv2.CAP_PROP_FRAME_HEIGHT), video.get(cv2.CAP_PROP_FRAME_WIDTH)
    _, image = video.read()
    assert (count, sides) == (20, (336, 336))
    assert 100 < image.mean() < 156  # the frames are noise around 128


def test_an_interrupted_act_prints_its_results_and_keeps_its_video(bundle: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    words = ["act", bundle, "--episodes", "1000000", "--record", film, "--json"]
    command = [sys.executable, "-m", "seer_edge", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        for _ in range(600):
            if list(tmp_path.iterdir()):
                break
            time.sleep(0.1)
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (130, "")
    printed = json.loads(out)
    assert printed["steps"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]
    assert int(cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT)) == printed["steps"]


class _Rendered(gymnasium.Env[Any, Any]):
    """An environment whose only images are rendered ones, with three actions and episodes of five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 5, False, {}

    def render(self) -> Any:
        return np.full((60, 80, 3), self.steps, np.uint8)


@pytest.mark.parametrize("env", [GAME, "test/OnlyRendered-v0"])
def test_a_policy_of_rendered_frames_plays_images_too(
    env: str, run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a policy that was trained in a simulation and plays a camera."""
    register(monkeypatch, "test/OnlyRendered-v0", entry_point=_Rendered)
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in ("encoder.onnx", "head.onnx")}
    for render, status in ((True, 0), (False, 0 if env == GAME else 2)):
        about["environment"] = {"id": "CartPole-v1", "name": "CartPole-v1", "options": {"render": render}}
        durable.write_container(tmp_path / "p.seer", about, members)
        assert run("act", tmp_path / "p.seer", "--env", env, "--episodes", "1")[0] == status


def test_every_command_reads_a_link_to_a_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "policy.seer"
    link.symlink_to(bundle)
    for words in (("act", link, "--episodes", "1"), ("eval", link), ("plan", *PIXEL_GAME, "--from", link)):
        assert run(*words)[0] == 0
    words = ("--from", link, "--total-timesteps", "5", "--run-dir", tmp_path / "run")
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "replay rows are imported" in out
