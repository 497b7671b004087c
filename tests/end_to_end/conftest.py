"""Short runs through the same calls that the command line makes."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from seer_edge.api import planning
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import make_plan
from seer_edge.config.registry import ALGORITHMS
from seer_edge.envs import Step, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.runs import run_folder
from seer_edge.training import run as train
from tests.end_to_end.short_presets import (
    GAME,
    PIXEL_GAME,
    Run,
    exported,
    runner,
    trained_run,
    use_short_presets,
)


@dataclass(frozen=True)
class Finished:
    """A run that ended."""

    status: int
    folder: run_folder.RunFolder

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.folder.summary.read_text())

    def checkpoint(self, timestep: int) -> Path:
        return self.folder.checkpoints / f"step_{timestep:010d}"


open_once = functools.cache(planning.open_spec)


@pytest.fixture
def each_environment_opens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the spec of each environment for later tests, because opening an Atari ROM takes half a second."""
    monkeypatch.setattr(planning, "open_spec", open_once)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run commands in this process, with short presets. Some test files replace this fixture."""
    use_short_presets(monkeypatch)
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of the pixel game with a freeze. Tests only read it."""
    return trained_run(tmp_path_factory.mktemp("runs") / "frozen", *PIXEL_GAME)


@pytest.fixture(scope="session")
def bundle(frozen: Path) -> Path:
    """Return the bundle of that run, with its learner and its replay rows. Tests only read it."""
    return exported(frozen)


@pytest.fixture
def short_run(tmp_path: Path) -> Callable[..., Finished]:
    """Train on the small pixel game; keyword arguments change the configuration."""
    torch.set_num_threads(1)
    count = 0

    def run(*, settings: dict[str, Any] | None = None, **changes: Any) -> Finished:
        nonlocal count
        count += 1
        brief = {
            "n_step": 1,
            "gamma": 0.5,
            "learning_starts": 200,
            "learning_rate": 5e-4,
            "target_update_steps": 200,
            "hidden": 64,
            "stack": 2,
        }
        config = TrainConfig(
            **{
                "env": GAME,
                "env_name": "PixelMatch",
                "preset": "test",
                "mem_budget_bytes": 2_000_000,
                "total_timesteps": 4_000,
                "freeze_at": 2_000,
                "freeze_reason": "test",
                "eval_every": 500,
                "log_every": 500,
                **changes,
            },
            settings=ALGORITHMS[changes.get("algo", "rainbow")].settings(**{**brief, **(settings or {})}),
        )
        env = make_env(config.env, config.env_options, seed=0, training=True)
        env.close()
        plan = make_plan(config, env.spec)
        folder = run_folder.create(tmp_path / f"run{count}", config)
        return Finished(train.train(plan, folder), folder)

    return run


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Record each action that an environment executes, and the frame that it returns."""
    executed: list[tuple[int, bytes]] = []
    step = Guarded.step

    def recorded(env: Guarded, action: Any) -> Step:
        done = step(env, action)
        executed.append((int(action), done.frame.tobytes()))
        return done

    monkeypatch.setattr(Guarded, "step", recorded)
    return executed
