"""The command as a user runs it: real Alien, real ONNX Runtime, separate processes."""

import csv
import functools
import itertools
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.training.tables import COLUMNS, EPISODE_COLUMNS
from seer_runtime import durable
from tests.processes import forked

COMMAND = [sys.executable, "-m", "seer_edge"]
ALIEN = [
    *("train", "--env", "alien", "--mem-budget", "5.65MB", "--total-timesteps", "900", "--freeze-at", "840"),
    *("--eval-episodes", "1", "--eval-every", "900", "--eval-max-steps", "150", "--set", "learning_starts=700"),
]
ROWS = 800  # fewer than the steps up to the freeze


def seer_edge(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alien(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short real run whose ring has wrapped by the freeze."""
    folder = tmp_path_factory.mktemp("alien") / "run"
    plan = seer_edge(*ALIEN, "--run-dir", str(folder))
    assert "800 rows" in plan
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_summary_has_the_figures_of_the_run(alien: Path) -> None:
    summary = read_json(alien / "summary.json")
    assert {key: summary[key] for key in ("env", "algo", "seed", "timesteps", "status")} == {
        "env": "ALE/Alien-v5",
        "algo": "rainbow",
        "seed": 0,
        "timesteps": 900,
        "status": "finished",
    }
    assert summary["budget"]["limit_bytes"] == 5_650_000
    assert summary["budget"]["observation_bytes_peak"] == ROWS * 7056
    assert 0 < summary["budget"]["workspace_bytes_peak"] <= 8_000_000
    assert summary["rss_peak_bytes"] >= summary["freeze"]["rss_peak_bytes"]
    assert summary["rss_peak_bytes"] > summary["anon_peak_bytes"] >= summary["freeze"]["anon_peak_bytes"]
    assert summary["replay"] == {
        "store": "paper",
        "bytes_a_row": 2304,
        "frame_capacity": ROWS,
        "latent_capacity": ROWS * 7056 // 2304,
        "latent_codec": "float32",
        "frame_row_bytes": 7056,
        "latent_row_bytes": 2304,
        "rows": summary["freeze"]["rows"] + 60 + truncations(alien),
        "clip_rate": None,
    }
    assert summary["freeze"]["timestep"] == 840
    assert ROWS - 3 <= summary["freeze"]["rows"] <= ROWS
    assert summary["freeze"]["onnx_max_abs_error"] < 1e-4
    assert summary["steps_per_second"]["latent"] > summary["steps_per_second"]["pixel"] > 0
    before, after = 293_499_136, 89_979_136
    assert summary["flops"]["at_freeze"] == 840 * before + 1_280_000 * ROWS
    assert summary["flops"]["total"] == summary["flops"]["at_freeze"] + 60 * after
    assert summary["eval"]["episodes"] == len(summary["eval"]["returns"]) == 1


def truncations(run: Path) -> int:
    """Return the number of rows since the freeze that hold the final observation of a truncated episode."""
    arrays = durable.read_tensors(run / "checkpoints/step_0000000900/replay.safetensors")
    return int((arrays["flags"] == 4).sum())


def test_progress_has_the_documented_columns(alien: Path) -> None:
    with (alien / "progress.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    assert [int(row["time/total_timesteps"]) for row in rows][-1] == 900
    assert {row["memory/observation_bytes"] for row in rows} == {str(ROWS * 7056)}
    for row in rows:
        assert int(row["memory/observation_bytes"]) < int(row["memory/anon_bytes"]) < int(row["memory/rss_bytes"])
    sampled = max(int(row["memory/anon_bytes"]) for row in rows)
    assert read_json(alien / "summary.json")["anon_peak_bytes"] >= sampled
    used = [float(row["time/cpu_seconds"]) for row in rows]
    assert 0 < used[0] < used[-1]
    assert [row["seer/frozen"] for row in rows] == sorted(row["seer/frozen"] for row in rows)
    assert rows[-1]["eval/mean_reward"] != ""


def test_every_training_episode_is_a_row(alien: Path) -> None:
    with (alien / "episodes.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        games = [{name: float(cell) for name, cell in row.items()} for row in reader]
    assert tuple(reader.fieldnames or ()) == EPISODE_COLUMNS == ("step", "return", "length", "updates")
    assert len(games) >= 1
    steps = [0.0, *(game["step"] for game in games)]
    assert [after - before for before, after in itertools.pairwise(steps)] == [game["length"] for game in games]
    made = [game["updates"] for game in games]
    assert made == [
        max(0, game["step"] - 701) for game in games
    ]  # with the pipeline, the update of the step itself comes later
    with (alien / "progress.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["rollout/ep_rew_mean"]) == pytest.approx(np.mean([game["return"] for game in games]), rel=1e-5)
    assert float(last["rollout/ep_len_mean"]) == pytest.approx(np.mean([game["length"] for game in games]), rel=1e-5)


def test_the_run_folder_holds_the_documented_files(alien: Path) -> None:
    assert {path.name for path in alien.iterdir()} == {
        *("config.json", "progress.csv", "episodes.csv", "summary.json", "encoder.onnx", "checkpoints")
    }
    assert {path.name for path in (alien / "checkpoints").iterdir()} == {"step_0000000840", "step_0000000900"}
    config = read_json(alien / "config.json")
    assert config["env"] == "ALE/Alien-v5"
    assert config["freeze_at"] == 840
    assert "torch" in config["versions"]


def test_latents_in_the_replay_are_those_of_the_written_encoder(alien: Path) -> None:
    """The encoder of the run's folder, applied to the frames of the freeze's checkpoint, gives the rows after it."""
    import onnxruntime

    before, after = (
        durable.read_tensors(alien / f"checkpoints/step_0000000{step}/replay.safetensors") for step in (840, 900)
    )
    state = read_json(alien / "checkpoints/step_0000000840/state.json")["replay"]["layout"]
    order = (state["first_slot"] + np.arange(state["rows"])) % state["capacity"]
    frames = before["rows"][order].reshape(-1, 84, 84)
    ages = before["age"][order]
    latents = after["rows"].view(np.float32)
    session = onnxruntime.InferenceSession(str(alien / "encoder.onnx"), providers=["CPUExecutionProvider"])
    dropped = len(frames) - read_json(alien / "summary.json")["freeze"]["rows"]
    for row in range(dropped, len(frames), 37):
        stack = np.zeros((4, 84, 84), np.uint8)
        for back in range(min(4, int(ages[row]) + 1)):
            stack[3 - back] = frames[row - back]
        (expected,) = session.run(None, {"observations": stack[None]})
        np.testing.assert_allclose(latents[row - dropped], expected[0, 0], atol=1e-4)


def test_eval_plays_the_newest_checkpoint(alien: Path) -> None:
    first, second = (forked("eval", alien, "--episodes", "1", "--seed", "3").stdout for _ in range(2))
    assert "step 900, 1 episode\n" in first
    assert first == second


def test_eval_skips_a_damaged_checkpoint_and_reports_it(alien: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(alien, copy)
    agent = copy / "checkpoints/step_0000000900/agent.safetensors"
    data = bytearray(agent.read_bytes())
    data[-1] ^= 1
    agent.write_bytes(data)
    done = forked("eval", copy, "--episodes", "1")
    assert done.returncode == 0, done.stderr
    assert "step 840, 1 episode\n" in done.stdout
    assert done.stderr.startswith("warning: skipped step_0000000900: ")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_checkpoint(number: signal.Signals, status: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [
        "train",
        "--env",
        "Alien",
        "--total-timesteps",
        "50000",
        "--log-every",
        "200",
        "--run-dir",
        str(folder),
    ]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        progress = folder / "progress.csv"
        while not (progress.exists() and len(progress.read_text().splitlines()) > 1):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=30) == status
    assert read_json(folder / "summary.json")["status"] == "interrupted"
    timestep = durable.newest_checkpoint(folder / "checkpoints").manifest["timestep"]
    assert timestep == read_json(folder / "summary.json")["timesteps"]
    assert int(progress.read_text().splitlines()[-1].split(",")[0]) == timestep


def _limit_file_sizes(limit_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("limit_bytes", "reached"), [(15_000_000, 0), pytest.param(19_000_000, 2_800, marks=pytest.mark.slow)]
)
def test_a_full_disk_ends_the_run_with_an_error(limit_bytes: int, reached: int, tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk: the agent has 18 MB, the replay grows beyond 19."""
    folder = tmp_path / "run"
    arguments = [
        *("train", "--env", "Alien", "--mem-budget", "30MB", "--total-timesteps", "2800", "--freeze-at", "2750"),
        *("--eval-episodes", "1", "--run-dir", str(folder)),
    ]
    done = forked(*arguments, prepare=functools.partial(_limit_file_sizes, limit_bytes))
    lines = done.stderr.splitlines()
    assert done.returncode == 75
    refused = [line for line in lines if line.startswith("warning: no freeze at step 2750") and "on frames" in line]
    assert len(refused) == (reached > 0)
    assert lines[-1].startswith(f"seer-edge train: {folder}: cannot be written any more")
    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["timesteps"], summary["freeze"]) == ("failed", reached, None)
    assert not (folder / "encoder.onnx").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == (["step_0000000000"] if reached else [])
