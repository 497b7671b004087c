"""Short runs of real dm_control tasks through the command line: train, freeze, evaluate, repeat with the same seed."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from tests.end_to_end.short_presets import EPISODE_STEPS, SAC, TASK, Run

P = 3 * 25 * 25
BUDGET = 300_000
TRAIN = ("train", "--env", TASK, "--resolution", "25")


def train(run: Run, folder: Path, *flags: str) -> dict[str, Any]:
    """Run `train` and return the summary. Assert that it succeeds."""
    status, _, error = run(*TRAIN, *flags, "--run-dir", folder)
    assert status == 0, error
    return summary_of(folder)


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def tensors(folder: Path, step: int, name: str = "agent") -> dict[str, Any]:
    return durable.read_tensors(folder / f"checkpoints/step_{step:010d}/{name}.safetensors")


def test_a_run_learns_freezes_and_is_evaluated(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = train(run, folder)
    capacity, row_bytes = BUDGET // P, 4 * 4 * 2 * SAC.features
    latent_capacity = capacity * P // row_bytes
    assert {name: summary[name] for name in ("env", "algo", "seed", "timesteps", "status", "freeze_refused")} == {
        "env": "dm_control/cartpole-swingup-v0",
        "algo": "curl-sac",
        "seed": 0,
        "timesteps": 75,
        "status": "finished",
        "freeze_refused": None,
    }
    episodes = 75 // EPISODE_STEPS
    finals_by_the_freeze = 30 // EPISODE_STEPS
    assert summary["replay"] == {
        "store": "paper",
        "bytes_a_row": row_bytes,
        "frame_capacity": capacity,
        "latent_capacity": latent_capacity,
        "latent_codec": "float32",
        "frame_row_bytes": P,
        "latent_row_bytes": row_bytes,
        "clip_rate": None,
        "rows": 75 + episodes,  # time limits truncate: each episode keeps its final observation
    }
    freeze = summary["freeze"]
    assert (freeze["timestep"], freeze["rows"]) == (30, 30 + finals_by_the_freeze)
    assert freeze["onnx_max_abs_error"] <= 1e-4
    budget = summary["budget"]
    assert (budget["limit_bytes"], budget["observation_bytes_peak"]) == (BUDGET, capacity * P)
    assert budget["observation_bytes_peak"] <= BUDGET
    assert 0 < budget["workspace_bytes_peak"] <= 8_000_000
    assert all(summary["steps_per_second"][phase] > 0 for phase in ("pixel", "latent"))
    assert summary["flops"]["total"] > summary["flops"]["at_freeze"] > 0
    assert summary["eval"]["episodes"] == len(summary["eval"]["returns"]) == 1
    assert 0 <= summary["eval"]["mean_return"] <= 1_000

    with (folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["memory/observation_bytes"]) for row in rows} == {capacity * P}
    assert [int(row["seer/frozen"]) for row in rows] == [int(int(row["time/total_timesteps"]) >= 30) for row in rows]
    assert {row["replay/capacity"] for row in rows} == {str(capacity), str(latent_capacity)}
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "progress.csv", "episodes.csv", "summary.json", "encoder.onnx", "checkpoints")
    }

    before, after = tensors(folder, 30), tensors(folder, 75)
    frozen = [name for name in before if name.startswith(("encoder.", "actor.norm.", "critic.norm."))]
    assert len(frozen) == 2 * 4 + 2 * 2 + 2 * 2
    assert all(np.array_equal(before[name], after[name]) for name in frozen)
    assert not np.array_equal(before["actor.policy.layers.0.weight"], after["actor.policy.layers.0.weight"])
    assert "bilinear.weight" in before
    assert "bilinear.weight" not in after

    status, out, _ = run("eval", folder, "--episodes", "1", "--seed", "3", "--json")
    played = json.loads(out)
    assert (status, played["timestep"], played["episodes"]) == (0, 75, 1)
    assert run("eval", folder, "--episodes", "1", "--seed", "3", "--json")[1] == out


@pytest.mark.slow
def test_the_same_seed_twice_gives_the_same_bits(run: Run, tmp_path: Path) -> None:
    flags = ("--total-timesteps", "45", "--freeze-at", "28", "--replay", "prioritized")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        train(run, folder, *flags, "--seed", "5")
    for step in (28, 45):
        for name in ("agent.safetensors", "replay.safetensors", "state.json"):
            ours, theirs = (folder / f"checkpoints/step_{step:010d}" / name for folder in (first, second))
            assert ours.read_bytes() == theirs.read_bytes()
    assert (first / "encoder.onnx").read_bytes() == (second / "encoder.onnx").read_bytes()
    assert summary_of(first)["eval"] == summary_of(second)["eval"]


@pytest.mark.slow
def test_a_run_without_the_contrastive_loss_freezes_and_is_evaluated(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = train(run, folder, "--algo", "sac", "--total-timesteps", "45", "--freeze-at", "28")
    assert (summary["algo"], summary["status"], summary["freeze"]["timestep"]) == ("sac", "finished", 28)
    assert not any("bilinear" in name or "contrastive" in name for name in tensors(folder, 28))
    assert json.loads((folder / "config.json").read_text())["settings"]["contrastive"] is False
    assert run("eval", folder)[0] == 0


@pytest.mark.slow
def test_a_freeze_of_two_layers_keeps_a_replay_of_frames(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = train(run, folder, "--freeze-layers", "2", "--total-timesteps", "45", "--freeze-at", "28")
    assert (summary["freeze"]["timestep"], summary["freeze"]["onnx_max_abs_error"]) == (28, None)
    assert summary["replay"]["rows"] == 45 + 45 // EPISODE_STEPS
    assert summary["budget"]["observation_bytes_peak"] == BUDGET // P * P
    assert not (folder / "encoder.onnx").exists()
    before, after = tensors(folder, 28), tensors(folder, 45)
    frozen = {f"encoder.convs.{index}.{leaf}" for index in range(2) for leaf in ("weight", "bias")}
    encoder = {name for name in before if name.startswith("encoder.")}
    assert {name for name in encoder if np.array_equal(before[name], after[name])} == frozen
    assert tensors(folder, 45, "replay")["rows"].shape == (45 + 45 // EPISODE_STEPS, P)
    assert run("eval", folder)[0] == 0
