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
from seer_edge.envs.gym_pixels import GymPixels
from tests.seer_edge.env_registry import register


class _Screens(gymnasium.Env[Any, Any]):
    """Random screens in one reused buffer; `ends` is what the third step of an episode reports."""

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
        self.taken.append(int(action))
        terminated, truncated = self.ends if len(self.taken) == 3 else (False, False)
        return self._draw(), -2.5, terminated, truncated, {}


def _pixels(monkeypatch: pytest.MonkeyPatch, seed: int = 0, resolution: int | None = None, **kwargs: Any) -> GymPixels:
    register(monkeypatch, "test/Screens-v0", entry_point=_Screens, kwargs=kwargs)
    env = make_env("test/Screens-v0", EnvOptions(resolution=resolution), seed=seed, training=True)
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
def test_pixels_are_gray_and_no_larger_than_84(
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
def test_a_resolution_far_from_a_screens_is_refused(resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResolutionError, match=f"^resolution {resolution} .*: give 16 to 210$"):
        _pixels(monkeypatch, resolution=resolution)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("ends", "seen"),
    [((True, False), (True, False)), ((False, True), (False, True)), ((True, True), (True, False))],
)
def test_pixel_episodes(ends: tuple[bool, bool], seen: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_pixels_are_seeded_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
        ({"shape": (4,)}, "observes Box.*uint8 images"),
        ({"shape": (8, 8, 4)}, "observes Box.*uint8 images"),
        ({"shape": (8, 8), "dtype": np.float32}, "observes Box.*uint8 images"),
        ({"actions": gymnasium.spaces.Box(-1.0, 1.0, (2,))}, "has Box.*for actions; discrete ones are needed"),
    ],
)
def test_what_is_not_pixels_or_not_discrete_is_refused(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"environment 'test/Screens-v0' {message}") as caught:
        _pixels(monkeypatch, **kwargs)
    assert "\n" not in str(caught.value)


def test_continuous_atari_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    register(
        monkeypatch, "Joystick-v0", entry_point="ale_py.env:AtariEnv", kwargs={"game": "alien", "continuous": True}
    )
    with pytest.raises(UnsupportedEnvError, match=r"environment 'Joystick-v0' has Box.*discrete ones are needed"):
        make_env("Joystick-v0", EnvOptions(), seed=0, training=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_screen_that_breaks_the_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _pixels(monkeypatch)
    env.reset()
    env._env.unwrapped.screen = np.zeros((20, 31), np.uint8)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"promised uint8 \[20, 30\] and showed uint8 \[20, 31\]"):
        env.step(0)


def test_an_environment_that_lacks_a_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise gymnasium.error.DependencyNotInstalled("no box2d,\nrun pip install box2d")

    register(monkeypatch, "Lacking-v0", entry_point=lacks)
    with pytest.raises(UnavailableEnvError) as caught:
        make_env("Lacking-v0", EnvOptions(), seed=0, training=True)
    assert str(caught.value) == "environment 'Lacking-v0' cannot be built: no box2d, run pip install box2d"
