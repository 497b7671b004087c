"""Training, evaluation and acting reduce frames to the same gray levels."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.deploy.act import Origin
from seer_edge.deploy.record import _of_bundle
from seer_edge.envs import EnvOptions, make_env
from seer_edge.errors import BadInputError
from seer_runtime import Policy, durable
from seer_runtime.policy.bundle import PROBE, open_bundle
from seer_runtime.policy.preprocess import to_gray_levels
from tests.end_to_end.short_presets import GAME, Run

TRAIN = ("train", "--env", GAME)
LEVELS = ("--gray-levels", "32")


def _recorded_levels(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["gray_levels"]


def _reduced(frames: Any) -> bool:
    return np.array_equal(frames, to_gray_levels(frames, 32))


def _rows(folder: Path) -> Any:
    path = durable.newest_checkpoint(folder / "checkpoints").path
    return durable.read_tensors(path / "replay.safetensors")["rows"]


def test_training_evaluation_and_acting_see_the_same_gray_levels(
    run: Run, steps: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    folder, packed = tmp_path / "run", tmp_path / "policy.seer"
    status, out, _ = run(*TRAIN, *LEVELS, "--run-dir", folder)
    assert status == 0
    assert "frames 42x42 of 32 gray levels" in out
    assert _recorded_levels(folder) == 32
    assert len(steps) >= 75  # with the evaluation at the end
    assert run("export", folder, "-o", packed, "--int8")[0] == 0
    with open_bundle(packed) as bundle:
        assert bundle.about["observation"]["gray_levels"] == bundle.spec.gray_levels == 32
        assert Origin.of(bundle).options.gray_levels == 32
        probe = bundle.arrays(PROBE)["observations"]
    assert all(_reduced(np.frombuffer(frame, np.uint8)) for _, frame in steps)
    assert _reduced(probe)
    assert probe.any()
    played = []
    for words in (("act", packed, "--epsilon", "0.001"), ("eval", packed), ("eval", folder)):
        steps.clear()
        assert run(*words, "--seed", "5", "--episodes", "4")[0] == 0
        played.append(list(steps))
    assert len(played[0]) == 80
    assert played[0] == played[1] == played[2]
    assert all(_reduced(np.frombuffer(frame, np.uint8)) for _, frame in played[0])
    policy, program = (Policy.load(packed, int8=False) for _ in range(2))  # the choice of the encoder depends on times
    reduced, plain = (make_env(GAME, EnvOptions(gray_levels=n), seed=0, training=False) for n in (32, None))
    frame, screen = reduced.reset(), plain.reset()
    for action in (0, 1, 2) * 6:
        assert program.act(screen) == policy.act(frame)
        np.testing.assert_array_equal(program.values, policy.values)
        frame, screen = reduced.step(action).frame, plain.step(action).frame


def test_the_replay_holds_reduced_frames_also_after_a_resume(run: Run, tmp_path: Path) -> None:
    words = (*TRAIN, "--freeze-at", "never", "--eval-every", "never", "--total-timesteps", "40")
    for levels, name in ((LEVELS, "reduced"), ((), "plain")):
        assert run(*words, *levels, "--run-dir", tmp_path / name)[0] == 0
        assert run("resume", tmp_path / name, "--total-timesteps", "60")[0] == 0
    assert (_recorded_levels(tmp_path / "reduced"), _recorded_levels(tmp_path / "plain")) == (32, None)
    reduced, plain = _rows(tmp_path / "reduced"), _rows(tmp_path / "plain")
    assert len(reduced) >= 60
    assert not _reduced(plain)
    np.testing.assert_array_equal(reduced[:20], to_gray_levels(plain[:20], 32))  # the actions of both are random
    assert _reduced(reduced)


def test_an_imported_encoder_sees_the_gray_levels_that_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    reduced, plain = tmp_path / "reduced", tmp_path / "plain"
    packed = tmp_path / "policy.seer"
    short = ("--total-timesteps", "40", "--eval-every", "never")
    assert run(*TRAIN, *short, *LEVELS, "--run-dir", reduced)[0] == 0
    assert run(*TRAIN, *short, "--run-dir", plain)[0] == 0
    assert run("export", reduced, "-o", packed)[0] == 0
    sources = (("--from", reduced, "--take", "encoder"), ("--from", packed))
    for source in sources:
        for flags in ((), LEVELS):
            status, out, _ = run("plan", "--env", GAME, *short, *source, *flags)
            assert status == 0
            assert "of 32 gray levels" in out
        _refuse(run, tmp_path, source, "64", f"--gray-levels 64: the encoder of --from {source[1]} was trained on ")
    assert run(*TRAIN, *short, *source, "--run-dir", tmp_path / "from-bundle")[0] == 0
    assert _recorded_levels(tmp_path / "from-bundle") == 32
    source = ("--from", plain, "--take", "encoder")
    _refuse(run, tmp_path, source, "32", "trained on frames of 256 gray levels; leave it out")
    assert "gray levels" not in run("plan", "--env", GAME, *short, *source)[1]


def _refuse(run: Run, folder: Path, source: tuple[Any, ...], levels: str, message: str) -> None:
    for command in (("plan",), ("train", "--run-dir", folder / "refused")):
        status, out, error = run(*command, "--env", GAME, *source, "--gray-levels", levels)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert message in error
    assert not (folder / "refused").exists()


def test_a_policy_that_is_recorded_sees_its_gray_levels(run: Run, tmp_path: Path) -> None:
    """`record` stores the frames as it is asked to, whatever the policy needs."""
    packed = tmp_path / "policy.seer"
    assert run(*TRAIN, *LEVELS, "--run-dir", tmp_path / "run")[0] == 0
    assert run("export", tmp_path / "run", "-o", packed)[0] == 0
    spec = make_env(GAME, EnvOptions(), seed=0, training=False).spec
    (choose, _), policy = _of_bundle(packed, spec, None), Policy.load(packed)
    seen = []
    observe = type(policy.perception).observe

    def spied(perception: Any, frame: Any, *, first: bool) -> Any:
        seen.append(frame.copy())
        return observe(perception, frame, first=first)

    frame = np.random.default_rng(0).integers(0, 256, spec.frame_shape, np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(policy.perception), "observe", spied)
        choose(frame, True)
    assert np.array_equal(seen[0], to_gray_levels(frame, 32))
    with pytest.raises(BadInputError, match=r"sees frames that were resized by area, not by bilinear; give the --prot"):
        _of_bundle(packed, dataclasses.replace(spec, resize="bilinear"), None)
    _of_bundle(packed, spec, 64)  # reduced twice is as reduced once
    with pytest.raises(BadInputError, match=r"sees 32 gray levels, not 16; give --gray-levels 32$"):
        _of_bundle(packed, spec, 16)
