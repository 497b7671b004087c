"""Gymnasium environments with image observations or rendered frames."""

from typing import Any, ClassVar

import cv2
import gymnasium
import numpy as np
import pytest

from seer_edge.envs import (
    Discrete,
    EnvOptions,
    EnvSpec,
    Episode,
    Frame,
    ResolutionError,
    UnavailableEnvError,
    UnsupportedEnvError,
    make_env,
)
from seer_edge.envs.actions import Continuous
from seer_edge.envs.gym_pixels import GymPixels
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.preprocess import Color
from tests.seer_edge.env_registry import register


class _Screens(gymnasium.Env[Any, Any]):
    """Random screens in one reused buffer. The third step of an episode returns the end flags `ends`."""

    ends: ClassVar[tuple[bool, bool]] = (True, False)

    def __init__(self, shape: tuple[int, ...] = (20, 30), dtype: Any = np.uint8, actions: Any = None) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, dtype)
        self.action_space = actions or gymnasium.spaces.Discrete(3, start=5)
        self.screen = np.zeros(shape, dtype)
        self.taken: list[int] = []

    def _draw(self) -> Any:
        self.screen[...] = self.np_random.integers(256, size=self.screen.shape)
        return self.screen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = []
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        terminated, truncated = self.ends if len(self.taken) == 3 else (False, False)
        return self._draw(), -2.5, terminated, truncated, {}


def _pixels(
    monkeypatch: pytest.MonkeyPatch,
    seed: int = 0,
    resolution: int | None = None,
    color: Color | None = None,
    **kwargs: Any,
) -> GymPixels:
    register(monkeypatch, "test/Screens-v0", entry_point=_Screens, kwargs=kwargs)
    env = make_env("test/Screens-v0", EnvOptions(resolution=resolution, color=color), seed=seed, training=True)
    assert isinstance(env, GymPixels)
    return env


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("shape", "frame_shape"),
    [
        ((20, 30), (20, 30)),
        ((20, 30, 1), (20, 30)),
        ((20, 30, 3), (20, 30)),
        ((84, 84), (84, 84)),
        ((85, 20), (84, 84)),
        ((20, 85, 3), (84, 84)),
        ((168, 168), (84, 84)),
    ],
)
def test_frames_with_discrete_actions_are_gray_and_at_most_84x84(
    shape: tuple[int, ...], frame_shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = _pixels(monkeypatch, shape=shape)
    assert env.spec == EnvSpec("test/Screens-v0", "Screens-v0", frame_shape, frame_shape, Discrete(3))
    frame = env.reset()
    screen: Any = env._env.unwrapped.screen  # type: ignore[attr-defined]
    gray = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) if shape[2:] == (3,) else screen.reshape(shape[:2])
    if frame_shape == (84, 84):
        gray = cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(frame, gray)
    assert frame.dtype == np.uint8
    kept = frame.copy()
    env.step(0)
    np.testing.assert_array_equal(frame, kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("resolution", [16, 42, 210])
def test_a_resolution_resizes_every_screen(resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    env = _pixels(monkeypatch, resolution=resolution, shape=(20, 30))
    size = (resolution, resolution)
    assert env.spec == EnvSpec("test/Screens-v0", "Screens-v0", size, size, Discrete(3))
    frame = env.reset()
    screen: Any = env._env.unwrapped.screen  # type: ignore[attr-defined]
    np.testing.assert_array_equal(frame, cv2.resize(screen, size, interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("resolution", [15, 211])
def test_a_resolution_out_of_range_is_rejected(resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResolutionError, match=f"^resolution {resolution} is out of range; use 16 to 210 pixels$"):
        _pixels(monkeypatch, resolution=resolution)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("ends", "seen"),
    [((True, False), (True, False)), ((False, True), (False, True)), ((True, True), (True, False))],
)
def test_episodes_report_their_return_their_length_and_one_end(
    ends: tuple[bool, bool], seen: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Screens, "ends", ends)
    env = _pixels(monkeypatch)
    for _ in range(2):
        env.reset()
        steps = [env.step(action) for action in (0, 1, 2)]
        assert env._env.unwrapped.taken == [5, 6, 7]  # type: ignore[attr-defined]
        assert [(step.terminated, step.truncated) for step in steps] == [(False, False)] * 2 + [seen]
        assert [step.reward for step in steps] == [-2.5] * 3
        assert [step.episode for step in steps] == [None, None, Episode(-7.5, 3)]
        with pytest.raises(RuntimeError, match="reset the environment"):
            env.step(0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_seed_is_used_for_the_first_episode_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_starts(seed: int) -> tuple[Frame, Frame]:
        env = _pixels(monkeypatch, seed)
        return env.reset(), env.reset()

    first, second = two_starts(1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal((first, second), two_starts(1))
    assert not np.array_equal(first, two_starts(2)[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (4,)}, r"observes Box.*not images .*; return uint8 images \[H, W, 3\]"),
        ({"shape": (8, 8, 5)}, "observes Box.*; if these are stacked frames, return the newest one"),
        (
            {"actions": gymnasium.spaces.Box(-np.inf, 1.0, (2,))},
            "has the action space Box.*; only Discrete and bounded",
        ),
        (
            {"actions": gymnasium.spaces.Box(0, 1, (2,), np.int64)},
            "has the action space Box.*; only Discrete and bounded",
        ),
        (
            {"actions": gymnasium.spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,))},
            "has the action space Box.*; declare finite bounds, or wrap",
        ),
        ({"actions": gymnasium.spaces.MultiBinary(2)}, "has the action space MultiBinary.*; only Discrete and bounded"),
    ],
)
def test_unsupported_observation_and_action_spaces_are_rejected(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"environment 'test/Screens-v0' {message}") as caught:
        _pixels(monkeypatch, **kwargs)
    assert "\n" not in str(caught.value)


def test_atari_with_continuous_actions_is_built_by_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    register(
        monkeypatch, "Joystick-v0", entry_point="ale_py.env:AtariEnv", kwargs={"game": "alien", "continuous": True}
    )
    env = make_env("Joystick-v0", EnvOptions(), seed=0, training=True)
    assert env.spec == EnvSpec("Joystick-v0", "Joystick-v0", (3, 100, 100), (84, 84), Continuous(3))
    env.reset()
    assert env.step(np.array([1.0, 0.0, -1.0], np.float32)).frame.any()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("shape", "frame_shape", "crop"),
    [
        ((50, 70, 3), (3, 50, 70), (42, 58)),
        ((50, 70), (3, 50, 70), (42, 58)),
        ((100, 101, 3), (3, 100, 100), (84, 84)),
        ((480, 640, 3), (3, 100, 100), (84, 84)),
    ],
)
def test_frames_with_continuous_actions_are_rgb_and_cropped(
    shape: tuple[int, ...], frame_shape: tuple[int, ...], crop: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = gymnasium.spaces.Box(np.float32([[-2.0, 0.0, 1.0]]), np.float32([[2.0, 1.0, 7.0]]))
    env = _pixels(monkeypatch, shape=shape, actions=box)
    assert env.spec == EnvSpec("test/Screens-v0", "Screens-v0", frame_shape, crop, Continuous(3))
    frame = env.reset()
    screen: Any = env._env.unwrapped.screen  # type: ignore[attr-defined]
    seen = screen if screen.ndim == 3 else np.stack([screen] * 3, axis=2)
    if frame_shape[1:] != shape[:2]:
        seen = cv2.resize(seen, frame_shape[1:], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(frame, seen.transpose(2, 0, 1))
    assert frame.flags.c_contiguous
    kept = frame.copy()
    env.step(np.zeros(3, np.float32))
    np.testing.assert_array_equal(frame, kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_controls_are_scaled_to_the_bounds_and_never_exceed_them(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # For many of these bounds, rounding makes middle plus half the range larger than the upper bound.
    low, high = np.sort(np.random.default_rng(0).uniform(-9, 9, (2, 50, 20)), axis=0).astype(dtype)
    env = _pixels(monkeypatch, actions=gymnasium.spaces.Box(low, high, dtype=dtype))
    env.reset()
    taken: Any = env._env.unwrapped.taken  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(_Screens, "ends", (False, False))
        for control in (-1.0, 1.0, 0.0, 0.5):
            env.step(np.full(1_000, control, np.float32))
    assert all(action.dtype == dtype and action.shape == (50, 20) for action in taken)
    assert all((low <= action).all() and (action <= high).all() for action in taken)
    for action, share in zip(taken, (0.0, 1.0, 0.5, 0.75), strict=True):
        np.testing.assert_allclose(action, low + share * (high - low), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (200, 160, 3)])
@pytest.mark.parametrize(("color", "channels"), [("gray", ()), ("rgb", (3,))])
def test_color_overrides_the_default(
    shape: tuple[int, ...], color: Color, channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for actions in (gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(-1.0, 1.0, (2,))):
        env = _pixels(monkeypatch, resolution=25, color=color, shape=shape, actions=actions)
        assert env.spec.frame_shape == (*channels, 25, 25)
        assert env.reset().shape == (*channels, 25, 25)


class _Rendered(_Screens):
    """An environment that observes a number and renders its screens."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(**{"shape": (120, 160, 3), **kwargs})
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,))

    def _draw(self) -> Any:
        super()._draw()
        return np.zeros(1, np.float32)

    def render(self) -> Any:
        return self.screen if self.render_mode == "rgb_array" else None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rendered_frames_replace_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Rendered-v0", entry_point=_Rendered)
    with pytest.raises(UnsupportedEnvError, match=r"observes Box.*; use --render-observations"):
        make_env("test/Rendered-v0", EnvOptions(), seed=0, training=True)
    env = make_env("test/Rendered-v0", EnvOptions(render=True), seed=3, training=True)
    assert env.spec == EnvSpec("test/Rendered-v0", "Rendered-v0", (84, 84), (84, 84), Discrete(3))
    drawn: Any = env._env.unwrapped  # type: ignore[attr-defined]

    def seen() -> Frame:
        return cv2.resize(cv2.cvtColor(drawn.screen, cv2.COLOR_RGB2GRAY), (84, 84), interpolation=cv2.INTER_AREA)

    np.testing.assert_array_equal(env.reset(), seen())
    first = drawn.screen.copy()
    np.testing.assert_array_equal(env.step(1).frame, seen())
    # Rendering the first screen, to learn its size, did not advance the random stream.
    drawn.reset(seed=3)
    np.testing.assert_array_equal(drawn.screen, first)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (20, 30, 5)}, r"renders uint8 \[20, 30, 5\] as rgb_array"),
        ({"dtype": np.float32}, r"renders float32 \[120, 160, 3\] as rgb_array"),
    ],
)
def test_rendered_screens_that_are_not_images_are_rejected(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "test/Rendered-v0", entry_point=_Rendered, kwargs=kwargs)
    with pytest.raises(UnsupportedEnvError, match=message):
        make_env("test/Rendered-v0", EnvOptions(render=True), seed=0, training=True)


def test_an_environment_without_render_mode_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Screens-v0", entry_point=_Screens)
    with pytest.raises(UnsupportedEnvError, match="'test/Screens-v0' does not accept render_mode; leave --render-obs"):
        make_env("test/Screens-v0", EnvOptions(render=True), seed=0, training=True)


@pytest.mark.parametrize(("env", "own"), [("Alien", "gray"), ("cartpole-swingup", "rgb")])
def test_atari_and_control_offer_one_color_and_no_rendering(env: str, own: str) -> None:
    other: Color = "rgb" if own == "gray" else "gray"
    with pytest.raises(UnsupportedEnvError, match=f"has {own} frames only, not {other}; leave --color out"):
        make_env(env, EnvOptions(color=other), seed=0, training=True)
    with pytest.raises(UnsupportedEnvError, match="leave --render-observations out"):
        make_env(env, EnvOptions(render=True), seed=0, training=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_screen_that_does_not_match_the_space_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _pixels(monkeypatch)
    env.reset()
    env._env.unwrapped.screen = np.zeros((20, 31), np.uint8)  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFailedError, match=r"the picture is uint8 \[20, 31\], not uint8 \[20, 30\]"):
        env.step(0)


def test_a_missing_package_of_an_environment_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise gymnasium.error.DependencyNotInstalled("no box2d,\nrun pip install box2d")

    register(monkeypatch, "Lacking-v0", entry_point=lacks)
    with pytest.raises(UnavailableEnvError) as caught:
        make_env("Lacking-v0", EnvOptions(), seed=0, training=True)
    assert str(caught.value) == "environment 'Lacking-v0' cannot be built: no box2d, run pip install box2d"
