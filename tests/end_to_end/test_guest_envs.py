"""An environment that changes the process around it neither breaks a run nor changes its results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import Policy, durable
from tests.processes import forked

PROJECT = Path(__file__).parents[2]
SHORT = [
    "--mem-budget",
    "1MB",
    "--total-timesteps",
    "60",
    "--freeze-at",
    "40",
    "--eval-episodes",
    "1",
    "--eval-in",
    "separate",
    "--seed",
    "5",
]
SETTINGS = ["--set", "learning_starts=20", "--set", "batch_size=8"]

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the environments, and with files that have the names of packages of the program."""
    shutil.copy(Path(__file__).with_name("guest_envs.py"), tmp_path)
    for name in ("onnx", "torch", "safetensors", "calendar"):
        (tmp_path / f"{name}.py").write_text(f"print('the {name} of the user')\n")
    return tmp_path


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "seer_edge", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'runtime'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *arguments: object) -> tuple[int, str, str]:
    done = forked(*arguments, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def run_in_new_interpreter(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Run the command in a new interpreter, whose imports the files in `folder` could replace."""
    child = start(folder, *arguments)
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def train(folder: Path, *arguments: object, env: str = "guest_envs:Guest-v0") -> list[object]:
    return ["train", "--env", env, *SHORT, *SETTINGS, *arguments]


def episodes(folder: Path) -> list[list[str]]:
    """Steps, lengths and returns of the training episodes of a run."""
    return [line.split(",")[:3] for line in (folder / "episodes.csv").read_text().splitlines()]


def test_an_environment_that_changes_its_process_is_trained_exported_and_played(folder: Path) -> None:
    kwargs = json.dumps({"size": 3})
    status, out, err = run_in_new_interpreter(folder, *train(folder, "--env-kwargs", kwargs, "--run-dir", "runs/one"))
    assert status == 0, err
    assert "Hello from the community." in err
    assert "a C library speaks" in err
    assert "could not be closed: RuntimeError: the link is gone" in err
    for word in ("Hello", "episode begins", "C library"):
        assert word not in out
    one = folder / "runs/one"
    summary = json.loads((one / "summary.json").read_text())
    assert (summary["status"], summary["freeze_refused"]) == ("finished", None)
    assert json.loads((one / "config.json").read_text())["env_kwargs"] == {"size": 3}

    # Another run of the seed sees the same episodes.
    status, out, err = run(folder, *train(folder, "--env-kwargs", kwargs, "--run-dir", "runs/two"))
    assert status == 0, err
    assert episodes(folder / "runs/two") == episodes(one)
    assert json.loads((folder / "runs/two/summary.json").read_text())["eval"] == summary["eval"]

    status, out, err = run(folder, "export", "runs/one", "-o", "policy.seer")
    assert status == 0, err
    played: list[Any] = []
    for run_it, *command in (
        (run, "eval", "runs/one"),
        (run, "eval", "policy.seer"),
        (run_in_new_interpreter, "act", "policy.seer", "--episodes", "1"),
    ):
        status, out, err = run_it(folder, *command, "--json")
        assert status == 0, err
        played.append(json.loads(out)["returns"])
    assert played[0] == played[1] == summary["eval"]["returns"]
    assert len(played[2]) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_end_a_run_whose_environment_replaced_their_handlers(number: int, status: int, folder: Path) -> None:
    child = start(folder, *train(folder, "--env-kwargs", '{"patient": true}', "--run-dir", "run"))
    deadline = time.monotonic() + 120
    while not list((folder / "run/checkpoints").glob("step_*")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == status, err
    assert durable.newest_checkpoint(folder / "run/checkpoints").manifest["timestep"] < 60


def test_a_class_that_is_not_registered_is_trained_and_resumed(folder: Path) -> None:
    status, _, err = run(folder, *train(folder, "--run-dir", "run", env="guest_envs:Guest"))
    assert status == 0, err
    status, _, err = run(folder, "resume", "run", "--total-timesteps", "70")
    assert status == 0, err
    assert json.loads((folder / "run/summary.json").read_text())["timesteps"] == 70


def test_an_environment_for_old_gym_is_named_and_ends_with_2(folder: Path) -> None:
    status, _, err = run(folder, *train(folder, "--run-dir", "run", env="guest_envs:OldGym"))
    assert status == 2, err
    assert "step returns four values, not five: it has the API of Gym before version 0.26" in err


def test_a_device_that_opens_once_and_changes_torch_is_trained_and_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = train(folder, "--run-dir", "run", "--eval-in", "training", env="guest_envs:Stubborn")
    status, _, err = run(folder, *words)
    assert status == 0, err
    assert json.loads((folder / "run/summary.json").read_text())["freeze_refused"] is None
    assert err.count("left an alarm running") == 1
    assert "left processes running, which are terminated: driver" in err

    status, _, err = run(folder, "export", "run", "-o", "policy.seer")
    assert status == 0, err
    policy = Policy.load(folder / "policy.seer")
    picture = np.random.default_rng(0).random((3, 30, 30), np.float32)
    policy.act({"eye": picture})
    of_observation = policy.values
    policy.reset()
    policy.act(np.rint(picture * 255).astype(np.uint8).transpose(1, 2, 0))
    np.testing.assert_array_equal(of_observation, policy.values)
