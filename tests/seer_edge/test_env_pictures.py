"""Pictures as Gymnasium environments observe them become screens, and anything else is refused with its remedy."""

import logging
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

from seer_edge.envs import EnvOptions, UnsupportedEnvError, make_env
from seer_edge.envs.pictures import NoPictureError, find_picture
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.pictures import PictureError
from tests.seer_edge.env_registry import register

RNG = np.random.default_rng(0)
IMAGE = Box(0, 255, (8, 9, 3), np.uint8)
VECTOR = Box(-np.inf, np.inf, (6,), np.float32)


def image(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_first_pictures_become_channel_last(channels: int) -> None:
    picture = find_picture(Box(0, 255, (channels, 8, 9), np.uint8))
    observation = image(channels, 8, 9)
    assert picture.screen_shape == (8, 9, channels)
    np.testing.assert_array_equal(picture.screen(observation), observation.transpose(1, 2, 0))


def test_alpha_is_dropped() -> None:
    picture = find_picture(Box(0, 255, (8, 9, 4), np.uint8))
    observation = image(8, 9, 4)
    assert picture.screen_shape == (8, 9, 3)
    np.testing.assert_array_equal(picture.screen(observation), observation[:, :, :3])


@pytest.mark.parametrize(
    ("low", "high", "dtype", "values", "screen"),
    [
        (0, 1, np.uint8, [0, 1], [0, 255]),
        (0, 15, np.uint8, [0, 1, 15], [0, 17, 255]),
        (0.0, 1.0, np.float32, [0, 0.5, 1, 1.5, -1], [0, 128, 255, 255, 0]),
        (-1.0, 1.0, np.float64, [-1, 0, 1], [0, 128, 255]),
        (0.0, 255.0, np.float32, [0, 7.4, 255], [0, 7, 255]),
        (0, 65535, np.uint16, [0, 257, 65535], [0, 1, 255]),
        (0, 255, np.int64, [0, 9, 255], [0, 9, 255]),
    ],
)
def test_values_are_scaled_from_the_bounds_of_the_space(
    low: float, high: float, dtype: Any, values: list[float], screen: list[int]
) -> None:
    picture = find_picture(Box(low, high, (1, len(values)), dtype))
    np.testing.assert_array_equal(picture.screen(np.array([values], dtype)), np.array([screen], np.uint8))


@pytest.mark.parametrize("space", [Box(0, 1, (2, 2), np.bool_), MultiBinary((2, 2)), Box(0, 1, (2, 2), np.uint8)])
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8])
def test_pictures_of_0_and_1_may_have_any_integer_type(space: Any, dtype: Any) -> None:
    values = np.array([[0, 1], [1, 0]], dtype)
    np.testing.assert_array_equal(find_picture(space).screen(values), np.array([[0, 255], [255, 0]], np.uint8))


def test_the_only_picture_of_a_dictionary_is_found() -> None:
    picture = find_picture(Dict(joints=VECTOR, mission=Discrete(4), camera=Dict(top=IMAGE)))
    observation = image(8, 9, 3)
    np.testing.assert_array_equal(picture.screen({"camera": {"top": observation}}), observation)
    with pytest.raises(PictureError, match="the observation has no 'top'"):
        picture.screen({"camera": {}})


def test_rows_of_different_lengths_are_no_picture() -> None:
    message = r"^the picture is list \[\[1, 2\], \[3\]\], not uint8 \[2, 2\] as declared$"
    with pytest.raises(PictureError, match=message):
        find_picture(Box(0, 255, (2, 2), np.uint8)).screen([[1, 2], [3]])


def test_a_key_chooses_one_of_several_pictures() -> None:
    space = Dict(left=IMAGE, right=Tuple((VECTOR, IMAGE)))
    with pytest.raises(NoPictureError, match=r"several pictures; use --obs-key with one of left, right/1$"):
        find_picture(space)
    observation = image(8, 9, 3)
    picture = find_picture(space, "right/1")
    np.testing.assert_array_equal(picture.screen({"left": None, "right": (None, observation)}), observation)
    with pytest.raises(NoPictureError, match=r"observes no 'top'; use --obs-key with one of left, right/0, right/1$"):
        find_picture(space, "top")
    with pytest.raises(NoPictureError, match="not a dictionary; leave --obs-key out"):
        find_picture(IMAGE, "top")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(0, 255, (4, 84, 84), np.uint8), "if these are stacked frames, return the newest one"),
        (Box(0, 255, (2, 8, 9, 3), np.uint8), "if these are stacked frames, return the newest one"),
        (Box(-np.inf, np.inf, (8, 9), np.float32), "have no range; declare the bounds of its pixels"),
        (Box(3, 3, (8, 9), np.uint8), "have no range; declare the bounds of its pixels"),
        (Box(-1e38, 1e38, (8, 9), np.float32), "have no range; declare the bounds of its pixels"),
        (Box(-65504, 65504, (8, 9), np.float16), "have no range; declare the bounds of its pixels"),
        (Box(0, 2**31 - 1, (8, 9), np.int32), "have no range; declare the bounds of its pixels"),
        (Dict({"a/b": IMAGE, "a": Dict(b=IMAGE)}), "observes two parts with the key 'a/b'; rename one of them"),
        (MultiBinary(6), "not images"),
        (VECTOR, "not images"),
        (Discrete(3), "not images"),
        (Dict(a=VECTOR, b=Discrete(3)), "which has no picture"),
    ],
)
def test_other_spaces_are_refused_with_the_reason(space: Any, message: str) -> None:
    with pytest.raises(NoPictureError, match=message):
        find_picture(space)


def test_pictures_that_are_not_finite_are_a_failure() -> None:
    picture = find_picture(Box(0.0, 1.0, (2, 2), np.float32))
    with pytest.raises(PictureError, match="not finite"):
        picture.screen(np.full((2, 2), np.nan, np.float32))


class Observing(gymnasium.Env[Any, Any]):
    """An environment with the given observation space, which renders only if its metadata says so."""

    action_space = Discrete(2)

    def __init__(self, space: Any, renders: bool = False, render_mode: str | None = None) -> None:
        self.observation_space, self.render_mode = space, render_mode
        self.metadata = {"render_modes": ["rgb_array"] if renders else []}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed = seed
        return self.observation_space.sample(), {}

    def render(self) -> Any:
        return image(20, 20, 4)


def build(monkeypatch: pytest.MonkeyPatch, options: EnvOptions, seed: int = 0, **kwargs: Any) -> Any:
    register(monkeypatch, "test/Observing-v0", entry_point=Observing, kwargs=kwargs)
    return make_env("test/Observing-v0", options, seed=seed, training=True)


@pytest.mark.parametrize("renders", [False, True])
def test_rendering_is_suggested_only_to_environments_that_render(
    renders: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedEnvError) as caught:
        build(monkeypatch, EnvOptions(), space=VECTOR, renders=renders)
    assert ("--render-observations" in str(caught.value)) is renders
    assert str(caught.value).endswith("rendered images" if renders else "return uint8 images [H, W, 3]")


def test_rendered_alpha_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    env = build(monkeypatch, EnvOptions(render=True, color="rgb"), space=VECTOR, renders=True)
    assert env.reset().shape == (3, 20, 20)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_seeds_fit_into_a_c_int(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build(monkeypatch, EnvOptions(), seed=seed, space=IMAGE)
    env.reset()
    assert env._env.unwrapped.seed == seed % 2**31
    env.reseed(seed)
    env.reset()
    assert env._env.unwrapped.seed == seed % 2**31


class Dazzling(Observing):
    """An environment whose pictures have values outside the bounds that it declares."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.screen = np.full(self.observation_space.shape, 200, self.observation_space.dtype)
        return self.screen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert type(action) is np.int64
        return self.screen, 0.0, False, False, {}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_outside_the_bounds_are_reported_once(
    dtype: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("seer_edge"), "propagate", True)
    register(monkeypatch, "test/Dazzling-v0", entry_point=Dazzling, kwargs={"space": Box(0, 1, (20, 20), dtype)})
    env = make_env("test/Dazzling-v0", EnvOptions(), seed=0, training=True)
    env.reset()
    env.step(0)
    [record] = caplog.records
    assert "its picture has values from 200 to 200, but declares 0 to 1" in record.message


def test_a_picture_that_is_not_as_declared_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Dazzling-v0", entry_point=Dazzling, kwargs={"space": Box(0, 1, (20, 20), np.uint8)})
    env: Any = make_env("test/Dazzling-v0", EnvOptions(), seed=0, training=True)
    env.reset()
    env._env.unwrapped.screen = np.zeros((20, 20), np.float32)
    with pytest.raises(EnvironmentFailedError, match=r"^the picture is float32 \[20, 20\], not uint8 \[20, 20\]"):
        env.step(0)


def test_arguments_reach_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    env = build(monkeypatch, EnvOptions(kwargs={"renders": True}), space=IMAGE)
    assert env._env.unwrapped.metadata["render_modes"] == ["rgb_array"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EnvOptions(obs_key="top"), "leave --obs-key out"),
        (
            EnvOptions(kwargs={"frameskip": 2}),
            "does not take frameskip=2 in --env-kwargs; Atari games take full_action",
        ),
        (EnvOptions(kwargs={"full_action_space": 1}), "does not take full_action_space=1"),
    ],
)
def test_atari_refuses_options_of_other_environments(options: EnvOptions, message: str) -> None:
    with pytest.raises(UnsupportedEnvError, match=message):
        make_env("Pong", options, seed=0, training=True)


def test_atari_has_its_full_action_set_on_request() -> None:
    kwargs = {"full_action_space": True, "mode": 1, "difficulty": 1}
    env = make_env("Pong", EnvOptions("machado", kwargs=kwargs), seed=0, training=True)
    assert env.spec.actions.outputs == 18
    env.reset()
    assert env.step(17).frame.any()
    assert make_env("Pong", EnvOptions("machado"), seed=0, training=True).spec.actions.outputs == 6
