"""`--algo dqn` through a freeze: learning, and bundles that act like the run and from which another run continues."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.config.presets import PRESETS
from seer_edge.config.presets.dqn import DQN_DEFAULT, DqnSettings
from seer_runtime import Policy, durable
from tests.end_to_end.conftest import Finished
from tests.end_to_end.short_presets import GAME, Run, runner, short
from tests.end_to_end.test_learning import evaluations

SETTINGS = DqnSettings(learning_starts=20, learning_rate=5e-4, target_update_steps=20, hidden=16, batch_size=8)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    preset = short(DQN_DEFAULT, "PixelMatch-v0", SETTINGS, None)
    monkeypatch.setitem(PRESETS, ("pixelmatch-v0", "dqn"), preset)
    return runner(monkeypatch, capsys)


def test_dqn_learns_before_the_freeze_and_after_it(short_run: Callable[..., Finished]) -> None:
    """The largest return is 20. Random actions give 6.7, and random features do not solve the game."""
    brief = {"algo": "dqn", "total_timesteps": 1_000, "eval_every": 200, "eval_episodes": 3}
    run = short_run(freeze_at=650, **brief)
    returns, random_features = evaluations(run), evaluations(short_run(freeze_at=1, **brief))
    print("mean return by step:", returns, "with random features:", random_features)
    assert run.summary["freeze"]["timestep"] == 650
    assert returns[200] < 12  # before the first update
    assert min(returns[step] for step in (600, 800, 1_000)) > 18
    assert max(random_features.values()) < 16


def test_the_same_seed_twice_gives_the_same_bits(short_run: Callable[..., Finished]) -> None:
    first, second, other = (
        short_run(
            **{"algo": "dqn", "total_timesteps": 160, "freeze_at": 120, "eval_every": 160, "eval_episodes": 1},
            **{"seed": seed, "settings": {"learning_starts": 60}},
        )
        for seed in (0, 0, 1)
    )
    for name in ("agent.safetensors", "replay.safetensors", "state.json"):
        files = [(each.checkpoint(160) / name).read_bytes() for each in (first, second, other)]
        assert files[0] == files[1] != files[2], name


def _agent(folder: Path) -> dict[str, Any]:
    return durable.read_tensors(durable.newest_checkpoint(folder / "checkpoints").path / "agent.safetensors")


def _settings(folder: Path) -> DqnSettings:
    return DqnSettings(**durable.read_json(folder / "config.json")["settings"])


@pytest.mark.parametrize("flags", [(), ("--freeze-at", "never"), ("--freeze-layers", "1")])
def test_a_bundle_acts_as_its_run_does(run: Run, flags: tuple[str, ...], tmp_path: Path) -> None:
    words = ("--env", GAME, "--algo", "dqn")
    status, out, _ = run("train", *words, *flags, "--run-dir", tmp_path / "run")
    assert status == 0
    assert "dqn, encoder data-efficient" in out
    assert run("export", tmp_path / "run", "-o", tmp_path / "policy.seer")[0] == 0
    answers = [
        json.loads(run("eval", tmp_path / name, "--json", "--episodes", "3")[1]) for name in ("run", "policy.seer")
    ]
    assert answers[0]["returns"] == answers[1]["returns"]
    assert run("act", tmp_path / "policy.seer", "--episodes", "1")[0] == 0

    policy, weights = Policy.load(tmp_path / "policy.seer"), _agent(tmp_path / "run")
    rng = np.random.default_rng(0)
    for _ in range(50):
        latents = rng.random(policy.perception.encoder.latent_shape, np.float32)
        hidden = np.maximum(weights["head.hidden.weight"] @ latents[0] + weights["head.hidden.bias"], 0)
        values = weights["head.values.weight"] @ hidden + weights["head.values.bias"]
        assert policy.decide(latents) == values.argmax()
        np.testing.assert_allclose(policy.values, values, rtol=1e-4, atol=1e-5)


def test_another_run_continues_its_agent_or_imports_its_encoder(run: Run, tmp_path: Path) -> None:
    words = ("--env", GAME, "--algo", "dqn")
    assert run("train", *words, "--run-dir", tmp_path / "run")[0] == 0
    bundle = tmp_path / "all.seer"
    assert run("export", tmp_path / "run", "-o", bundle, "--with", "learner", "--with", "replay")[0] == 0
    before = _agent(tmp_path / "run")

    status, out, _ = run("train", *words, "--from", bundle, "--total-timesteps", "1", "--run-dir", tmp_path / "agent")
    assert status == 0
    assert "replay rows are imported" in out
    continued = _agent(tmp_path / "agent")
    for name in ("head.hidden.weight", "head.values.weight"):
        moved = np.abs(continued[name] - before[name]).max()
        assert moved <= 2 * SETTINGS.learning_rate, name  # at most an update or two later
    status, out, _ = run(
        *("train", *words, "--from", tmp_path / "run", "--take", "encoder"),
        *("--total-timesteps", "1", "--run-dir", tmp_path / "encoder"),
    )
    assert status == 0
    epsilons = [_settings(tmp_path / name).for_run(1_000).epsilon(0) for name in ("agent", "encoder")]
    assert epsilons == [SETTINGS.exploration_final_eps, SETTINGS.exploration_initial_eps]
    fresh = _agent(tmp_path / "encoder")
    assert np.abs(fresh["head.hidden.weight"] - before["head.hidden.weight"]).max() > 0.01
    assert (tmp_path / "encoder/encoder.onnx").read_bytes() == (tmp_path / "run/encoder.onnx").read_bytes()

    status, _, error = run("train", "--env", GAME, "--from", bundle, "--take", "agent", "--run-dir", tmp_path / "no")
    assert (status, error.count("\n")) == (2, 1)
    assert "dqn" in error
    assert "rainbow" in error


def test_a_resumed_run_has_its_configuration_and_schedule(run: Run, tmp_path: Path) -> None:
    assert (
        run("train", "--env", GAME, "--algo", "dqn", "--total-timesteps", "40", "--run-dir", tmp_path / "run")[0] == 0
    )
    settings = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert settings == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    assert run("resume", tmp_path / "run", "--total-timesteps", "60")[0] == 0
