"""Every environment reduces its frames to the gray levels that it is asked for, and nothing else changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.envs import Discrete, EnvOptions, EnvSpec, Step, make_env
from seer_edge.envs.families import FAMILIES, Family
from seer_edge.envs.guarded import open_guarded
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.preprocess import to_gray_levels
from tests.seer_edge.env_twins import assert_continue_alike, through_files

GAME = "tests.end_to_end.pixel_match:PixelMatch-v0"
STEPS = 60


@pytest.mark.parametrize("levels", [16, 64])
@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("Alien", {}),
        (GAME, {}),
        (GAME, {"color": "rgb", "resolution": 50}),
        pytest.param("cartpole-swingup", {"resolution": 25}, marks=pytest.mark.integration),
    ],
    ids=["atari", "gymnasium", "rgb", "control"],
)
def test_frames_are_those_of_the_environment_reduced(env: str, options: dict[str, Any], levels: int) -> None:
    plain = make_env(env, EnvOptions(**options), seed=3, training=True)
    reduced = make_env(env, EnvOptions(**options, gray_levels=levels), seed=3, training=True)
    assert reduced.spec == plain.spec
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(reduced.reset(), to_gray_levels(plain.reset(), levels))
    for _ in range(STEPS):
        action = plain.spec.actions.sample(rng)
        step, got = plain.step(action), reduced.step(action)
        np.testing.assert_array_equal(got.frame, to_gray_levels(step.frame, levels))
        assert (got.reward, got.terminated, got.truncated, got.episode) == (
            step.reward,
            step.terminated,
            step.truncated,
            step.episode,
        )
        if step.terminated or step.truncated:
            np.testing.assert_array_equal(reduced.reset(), to_gray_levels(plain.reset(), levels))
            assert reduced.new_scene == plain.new_scene
    for opened in (plain, reduced):
        opened.close()


def test_a_saved_game_continues_on_reduced_frames(tmp_path: Path) -> None:
    options = EnvOptions(resolution=25, gray_levels=32)
    env, twin = (make_env("Alien", options, seed=seed, training=True) for seed in (0, 1))
    env.reset()
    for _ in range(20):
        env.step(1)
    twin.restore(through_files(env.state(), tmp_path))
    for step in assert_continue_alike(env, twin, 20):
        np.testing.assert_array_equal(step.frame, to_gray_levels(step.frame, 32))


class Keeps:
    """An environment that returns one array again and again, and draws from it."""

    spec = EnvSpec("keeps/one", "keeps", (4, 4), (4, 4), Discrete(3), as_registered=True)
    new_scene = True

    def __init__(self) -> None:
        self.frame: Any = np.arange(16, dtype=np.uint8).reshape(4, 4)

    def reset(self) -> Any:
        return self.frame

    def step(self, action: Any) -> Step:
        return Step(self.frame, float(self.frame.sum()), terminated=False, truncated=False, episode=None)

    def close(self) -> None:
        pass

    def state(self) -> None:
        pass

    def restore(self, state: Any) -> None:
        pass


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Keeps:
    """The environment keeps/one of a plugin, which knows nothing of gray levels."""
    env = Keeps()
    family = Family(("one",), lambda name, options, *, seed, training: env)
    monkeypatch.setitem(FAMILIES, "keeps", family)
    return env


def test_an_environment_may_keep_the_frames_that_it_returns(kept: Keeps) -> None:
    before = kept.frame.copy()
    env = make_env("keeps/one", EnvOptions(gray_levels=16), seed=0, training=True)
    for _ in range(2):
        for frame in (env.reset(), env.step(0).frame):
            np.testing.assert_array_equal(frame, to_gray_levels(before, 16))
    np.testing.assert_array_equal(kept.frame, before)
    assert not np.array_equal(frame, before)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, r"the frame is NoneType None, not uint8 \[4, 4\]"),
        (np.zeros((4, 4), np.float32), r"the frame is float32 \[4, 4\], not uint8 \[4, 4\]"),
        (np.zeros((3, 4), np.uint8), r"the frame is uint8 \[3, 4\], not uint8 \[4, 4\]"),
    ],
)
def test_an_invalid_frame_is_reported_as_without_gray_levels(frame: Any, message: str, kept: Keeps) -> None:
    kept.frame = frame
    for levels in (None, 16):
        env = open_guarded("keeps/one", EnvOptions(gray_levels=levels), seed=0, training=True)
        with pytest.raises(EnvironmentFailedError, match=f"^{message}$"):
            env.reset()
        env.close()


def test_an_idle_environment_is_used_again_only_with_the_same_gray_levels() -> None:
    """Gymnasium environments stay open while another one is in use."""
    first = open_guarded(GAME, EnvOptions(gray_levels=16), seed=0, training=True)
    second = open_guarded(GAME, EnvOptions(gray_levels=16), seed=5, training=True)
    frame, inside = second.reset(), second._env
    second.close()
    other = open_guarded(GAME, EnvOptions(gray_levels=64), seed=5, training=True)
    again = open_guarded(GAME, EnvOptions(gray_levels=16), seed=5, training=True)
    assert again._env is inside
    assert other._env is not inside
    np.testing.assert_array_equal(again.reset(), frame)
    for env in (again, other, first):
        env.close()
