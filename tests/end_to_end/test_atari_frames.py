"""Evaluations, `act` and programs show a policy of an Atari game the same frames as training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge.envs.games
from seer_edge.config.presets import PRESETS
from seer_edge.config.presets.atari import ATARI_DEFAULT
from seer_edge.deploy.act import Origin
from seer_edge.envs import make_env
from seer_edge.envs.atari import Atari
from seer_runtime import Policy
from seer_runtime.policy.bundle import open_bundle
from tests.end_to_end.short_presets import RAINBOW, Run, runner, short
from tests.golden import record

GAME = ("--env", "RoadRunner", "--resolution", "25")
STEPS = 300


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    preset = short(ATARI_DEFAULT, "RoadRunner", RAINBOW, None)
    monkeypatch.setitem(PRESETS, ("roadrunner", "rainbow"), preset)
    monkeypatch.setattr(seer_edge.envs.games, "EPISODE_STEPS_MAX", STEPS)
    return runner(monkeypatch, capsys)


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize(
    ("protocol", "resize"), [("paper", "bilinear"), pytest.param("machado", "area", marks=pytest.mark.slow)]
)
def test_act_and_eval_choose_the_same_actions_on_the_same_frames(
    protocol: str, resize: str, run: Run, steps: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    folder, packed = tmp_path / "run", tmp_path / "policy.seer"
    assert run("train", *GAME, "--protocol", protocol, "--run-dir", folder)[0] == 0
    assert (_config(folder)["resize"], _config(folder)["blank_at_lost_life"]) == (resize, False)
    assert run("export", folder, "-o", packed)[0] == 0
    with open_bundle(packed) as bundle:
        assert bundle.about["observation"]["resize"] == bundle.spec.resize == resize
        assert Origin.of(bundle).options.resize == resize
    played = []
    for words in (("act", packed, "--epsilon", "0.001"), ("eval", packed), ("eval", folder)):
        steps.clear()
        assert run(*words, "--seed", "5", "--episodes", "6")[0] == 0
        played.append(steps[:STEPS])
    assert len(played[0]) == STEPS
    assert played[0] == played[1] == played[2]
    assert len({action for action, _ in played[0]}) > 1


def test_a_program_gives_a_policy_the_last_two_screens(run: Run, tmp_path: Path) -> None:
    folder, packed = tmp_path / "run", tmp_path / "policy.seer"
    assert run("train", *GAME, "--total-timesteps", "40", "--run-dir", folder)[0] == 0
    assert run("export", folder, "-o", packed)[0] == 0
    policy, program = Policy.load(packed), Policy.load(packed)
    with open_bundle(packed) as bundle:
        options = Origin.of(bundle).options
    env = make_env("RoadRunner", options, seed=0, training=False)
    assert isinstance(env, Atari)
    frame, rng = env.reset(), np.random.default_rng(0)
    for _ in range(200):
        assert program.act((env._older, env._newer)) == policy.act(frame)
        np.testing.assert_array_equal(program.values, policy.values)
        step = env.step(int(rng.integers(18)))
        frame = step.frame
        if step.terminated:
            policy.reset()
            program.reset()
            frame = env.reset()


@pytest.mark.slow
def test_an_imported_encoder_sees_the_frames_that_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    """The new run has a protocol with other frames. One source is a bundle of an earlier version, one a run."""
    from_bundle, before, from_run = (tmp_path / name for name in ("from-bundle", "before", "from-run"))
    bundle = record.HERE / record.BUNDLE
    words = ("--total-timesteps", "30", "--protocol")
    assert run("train", *GAME, *words, "paper", "--from", bundle, "--run-dir", from_bundle)[0] == 0
    assert (_config(from_bundle)["resize"], _config(from_bundle)["blank_at_lost_life"]) == ("area", False)
    assert run("train", *GAME, *words, "paper", "--run-dir", before)[0] == 0
    taking = ("--from", before, "--take", "encoder", "--run-dir", from_run)
    assert run("train", *GAME, *words, "machado", *taking)[0] == 0
    assert (_config(before)["resize"], _config(from_run)["resize"]) == ("bilinear", "bilinear")
