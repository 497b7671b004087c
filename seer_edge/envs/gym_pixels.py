"""Gymnasium environments that observe or render images and have discrete actions or bounded controls."""

import warnings
from typing import Any

import gymnasium
import numpy as np

from seer_edge.envs.actions import Action, Actions, Continuous, Discrete
from seer_edge.envs.checks import finite_reward, shown, truth
from seer_edge.envs.environment import EnvSpec, Episode, Step
from seer_edge.envs.names import EnvId, UnavailableEnvError, UnsupportedEnvError, ViewError
from seer_edge.envs.resolution import pixel_size
from seer_edge.errors import describe_error
from seer_runtime.policy.actions import DTYPES, NUMBER_MAX, Bounded, Numbered, OwnActions
from seer_runtime.policy.preprocess import Color, Frame, Resize, is_screen, to_frame
from seer_runtime.system.state import State, StateError

DISCRETE_SIDE_MAX = 84
CONTINUOUS_SIDE_MAX = 100
CROP, OF_SIDE = 84, 100
"""The learner crops CROP of each OF_SIDE pixels where actions are continuous (Section 4.2)."""


class GymPixels:
    """A registered environment with frames uint8 `[H, W]` in gray or `[3, H, W]` in RGB.

    With discrete actions frames are gray and not cropped. With continuous actions frames are RGB, and the learner crops
    84 of each 100 pixels, as on control tasks. `color` overrides the color.

    With a `resolution` R every screen is resized to RxR. Without one, a screen of at most 84x84 (continuous actions:
    100x100) keeps its size, and a larger one is resized to that; `resize` is the interpolation. With `render` the
    screens are rendered with render_mode rgb_array instead of observed.

    Controls in [-1, 1] are scaled to the bounds of the action space, a box of any shape.

    Raises UnsupportedEnvError for observations other than uint8 `[H, W]`, `[H, W, 1]` or `[H, W, 3]` and for actions
    that are neither discrete nor bounded floats. Raises UnavailableEnvError where a package is missing or the
    environment does not render, and ResolutionError unless R is 16 to 210.
    """

    new_scene = True  # each episode starts one
    _own: OwnActions

    def __init__(
        self,
        env_id: EnvId,
        *,
        seed: int,
        resolution: int | None = None,
        color: Color | None = None,
        render: bool = False,
        resize: Resize = "area",
    ) -> None:
        asked_size = None if resolution is None else pixel_size(resolution)
        self._render = render
        self._env = _make(env_id, render)
        try:
            actions = self._actions(env_id)
            self._shape = self._first_render(env_id, seed) if render else self._observed(env_id)
        except BaseException:
            self._env.close()
            raise
        continuous = isinstance(actions, Continuous)
        size = asked_size or _size(self._shape, CONTINUOUS_SIDE_MAX if continuous else DISCRETE_SIDE_MAX)
        in_color = color == "rgb" or (color is None and continuous)
        frame_shape = (3, *size) if in_color else size
        crop = (size[0] * CROP // OF_SIDE, size[1] * CROP // OF_SIDE) if continuous else size
        own = None if self._own.plain else self._own
        self.spec = EnvSpec(
            env_id.id,
            env_id.name,
            frame_shape,
            crop,
            actions,
            as_registered=True,
            resize=resize,
            own_actions=own,
        )

        self._seed: int | None = seed
        self._stepping = False
        self._return = 0.0
        self._length_steps = 0

    def _actions(self, env_id: EnvId) -> Actions:
        """Return the agent's action space."""
        space = self._env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            self._own = Numbered(int(space.start))
            return Discrete(int(space.n))
        if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating) and space.low.size:
            low, high = (np.asarray(bound, np.float64).ravel().tolist() for bound in (space.low, space.high))
            if str(space.dtype) in DTYPES and np.abs([*low, *high]).max() <= NUMBER_MAX:
                self._own = Bounded(space.shape, str(space.dtype), tuple(low), tuple(high))
                return Continuous(len(low))
        raise UnsupportedEnvError(
            f"environment {env_id.id!r} has the action space {_line(space)}; only Discrete and bounded float Box work"
        )

    def _observed(self, env_id: EnvId) -> tuple[int, ...]:
        """Return the shape of the observed screens."""
        space = self._env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.uint8 or not is_screen(space.shape):
            raise ViewError(
                f"environment {env_id.id!r} observes {_line(space)}, not uint8 images [H, W], [H, W, 1] or [H, W, 3]",
                "use --render-observations to learn from rendered images",
            )
        return space.shape

    def _first_render(self, env_id: EnvId, seed: int) -> tuple[int, ...]:
        """Return the shape of the rendered screens, which no space declares."""
        try:
            self._env.reset(seed=seed)
            screen: Any = self._env.render()
        except (gymnasium.error.Error, ImportError) as error:
            reason = " ".join(str(error).split())
            raise UnavailableEnvError(f"environment {env_id.id!r} cannot be rendered: {reason}") from error
        if not isinstance(screen, np.ndarray) or screen.dtype != np.uint8 or not is_screen(screen.shape):
            raise UnsupportedEnvError(
                f"environment {env_id.id!r} renders {shown(screen)} as rgb_array, not uint8 [H, W, 3]"
            )
        return tuple(screen.shape)

    def reset(self) -> Frame:
        """Start an episode and return its first frame."""
        observation, _ = self._env.reset(seed=self._seed)
        self._seed = None
        self._stepping = True
        self._return = 0.0
        self._length_steps = 0
        return self._frame(observation)

    def step(self, action: Action) -> Step:
        """Take one step. A step that is both terminated and truncated counts as terminated.

        Raises RuntimeError before `reset`, ValueError for a screen that does not match the space, and
        EnvironmentFailedError for an invalid reward or end flag.
        """
        if not self._stepping:
            raise RuntimeError("reset the environment before its next step")
        observation, raw_reward, terminated, truncated, _ = self._env.step(self._own.own(action))
        reward = finite_reward(raw_reward)
        terminated, truncated = truth("terminated", terminated), truth("truncated", truncated)
        self._return += reward
        self._length_steps += 1
        over = terminated or truncated
        self._stepping = not over
        episode = Episode(self._return, self._length_steps) if over else None
        return Step(self._frame(observation), reward, terminated, truncated and not terminated, episode)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def state(self) -> None:
        """Return None: Gymnasium has no interface to save an environment."""

    def restore(self, state: State) -> None:
        """Raise StateError, because these environments have no saved states."""
        raise StateError(f"environment {self.spec.id!r} cannot be restored")

    def _frame(self, observation: Any) -> Frame:
        screen = np.asarray(self._env.render() if self._render else observation)
        if screen.shape != self._shape or screen.dtype != np.uint8:
            raise ValueError(
                f"environment {self.spec.id!r} returned a screen of {screen.dtype} {list(screen.shape)}, not uint8 "
                f"{list(self._shape)}"
            )
        frame = to_frame(screen, self.spec.frame_shape, self.spec.resize)
        # The environment may draw its next screen into the same memory.
        return frame.copy() if np.may_share_memory(frame, screen) else frame


def _make(env_id: EnvId, render: bool) -> gymnasium.Env[Any, Any]:
    # Many users' environments do not accept render_mode, not even None.
    arguments: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    try:
        with warnings.catch_warnings():
            # The environment may render even if its metadata does not list the mode.
            warnings.filterwarnings("ignore", ".*that is not in the possible render_modes")
            return gymnasium.make(gymnasium.registry[env_id.registered], **arguments)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {reason}") from error
    except Exception as error:  # a user's class may raise any exception
        if render and isinstance(error, TypeError) and "render_mode" in str(error):
            raise ViewError(
                f"environment {env_id.id!r} does not accept render_mode",
                "leave --render-observations out, or add the argument to the environment",
            ) from error
        raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {describe_error(error)}") from error


def _size(screen_shape: tuple[int, ...], side_max: int) -> tuple[int, int]:
    height, width = screen_shape[:2]
    return (height, width) if max(height, width) <= side_max else (side_max, side_max)


def _line(value: object) -> str:
    return " ".join(str(value).split())
