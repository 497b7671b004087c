"""Bundles of environments with own action units act in these units."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from seer_edge import Policy
from tests.end_to_end import device_envs
from tests.end_to_end.short_presets import Run, runner
from tests.end_to_end.test_devices import DEVICES, SETS, SHORT


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def _exported(run: Run, env: str, folder: Path, *flags: str) -> Path:
    words = ("--env", f"{DEVICES}:{env}", *SHORT, *SETS, "--eval-every", "never", *flags)
    status, _, error = run("train", *words, "--run-dir", folder / "run")
    assert status == 0, error
    status, _, error = run("export", folder / "run", "-o", folder / "policy.seer")
    assert status == 0, error
    return folder / "policy.seer"


def _played(policy: Policy, env: gymnasium.Env[Any, Any]) -> list[Any]:
    """Play an episode as a user's program does. The environment raises for an action outside its space."""
    frame, _ = env.reset(seed=0)
    actions, over = [], False
    while not over:
        actions.append(policy.act(frame))
        frame, _, _, over, _ = env.step(actions[-1])
    return actions


def _acted(run: Run, bundle: Path) -> dict[str, Any]:
    status, printed, error = run("act", bundle, "--episodes", "1", "--json")
    assert status == 0, error
    return dict(json.loads(printed)["actions"])


def test_a_policy_returns_numbers_from_the_start_of_a_discrete_space(run: Run, tmp_path: Path) -> None:
    bundle = _exported(run, "Offset-v0", tmp_path)
    policy = Policy.load(bundle)
    actions = _played(policy, device_envs.offset())
    assert set(actions) <= {-1, 0, 1}
    policy.reset()
    frame = np.zeros((42, 42), np.uint8)
    normalized = policy.act_normalized(frame)
    policy.reset()
    assert policy.act(frame) == normalized - 1
    counts = _acted(run, bundle)
    assert counts.keys() <= {"-1", "0", "1"}
    assert sum(counts.values()) == 25


def test_a_policy_returns_arrays_in_the_bounds_of_a_box(run: Run, tmp_path: Path) -> None:
    bundle = _exported(run, "Bounds-v0", tmp_path, "--resolution", "25", "--set", "random_steps=8")
    actions = np.array(_played(Policy.load(bundle), device_envs.bounds()))
    assert actions.dtype == np.float32
    assert (np.abs(actions[:, 0]) <= 30).all()
    assert ((actions[:, 1] >= 0) & (actions[:, 1] <= 5)).all()
    # An untrained mean action is near the middle of the bounds, which is 0 and 2.5 in the environment's units.
    assert (actions[:, 1] > 1).all()
    taken = _acted(run, bundle)
    assert taken.keys() == {"low", "mean", "high"}
    assert 1 < taken["low"][1] <= taken["mean"][1] <= taken["high"][1] <= 5
