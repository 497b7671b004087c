"""Gymnasium environments that observe or render images and have discrete actions or bounded controls."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from seer_edge.envs.actions import Action, Actions, Continuous, Discrete
from seer_edge.envs.checks import finite_reward, truth
from seer_edge.envs.environment import SEEDS, EnvSpec, Episode, Step
from seer_edge.envs.gym_api import check_reset, misread_step, observation_of, parts_of_step
from seer_edge.envs.names import EnvError, EnvId, UnavailableEnvError, UnsupportedEnvError, ViewError
from seer_edge.envs.pictures import NoPictureError, find_picture, rendered_picture
from seer_edge.envs.rendering import prepare_rendering
from seer_edge.envs.resolution import pixel_size
from seer_edge.errors import EnvironmentFailedError, describe_error, message_of
from seer_runtime.policy.actions import DTYPES, Bounded, Numbered, OwnActions
from seer_runtime.policy.pictures import Picture, PictureError, shown_value
from seer_runtime.policy.preprocess import Color, Frame, Resize, to_frame
from seer_runtime.system.state import State, StateError

LOG = logging.getLogger(__name__)

DISCRETE_SIDE_MAX = 84
CONTINUOUS_SIDE_MAX = 100
CROP, OF_SIDE = 84, 100
"""The learner crops CROP of each OF_SIDE pixels where actions are continuous (Section 4.2)."""
_read_as_rgba: set[str] = set()
"""Environments whose four channels were reported."""
BOUND_MAX = 1e30
"""Limit on the bounds of controls. Larger ones stand for infinity."""
SMALL_SEEDS = 2**16
"""Seeds below this number are used where an environment takes no larger ones."""


class GymPixels:
    """A registered environment with frames uint8 `[H, W]` in gray or `[3, H, W]` in RGB.

    With discrete actions frames are gray and not cropped. With continuous actions frames are RGB, and the learner crops
    84 of each 100 pixels, as on control tasks. `color` overrides the color.

    With a `resolution` R every screen is resized to RxR. Without one, a screen of at most 84x84 (continuous actions:
    100x100) keeps its size, and a larger one is resized to that; `resize` is the interpolation. With `render` the
    screens are rendered with render_mode rgb_array instead of observed.

    Observations are pictures as `find_picture` takes them; `obs_key` names one in a dictionary. `kwargs` are arguments
    of the environment. Controls in [-1, 1] are scaled to the bounds of the action space, a box of any shape.

    Raises UnsupportedEnvError for other observations, for actions that are neither discrete nor bounded floats, and for
    the Gym API before version 0.26. Raises UnavailableEnvError where a package is missing or the environment does not
    render, and ResolutionError unless R is 16 to 210.
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
        obs_key: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        asked_size = None if resolution is None else pixel_size(resolution)
        self._render = render
        self._id, self._reported = env_id.id, False
        seed %= SEEDS  # many simulators take seeds as a C int
        self._env = _make(env_id, render, kwargs or {})
        try:
            actions = self._actions(env_id)
            self._picture = self._first_render(env_id, seed) if render else self._observed(env_id, obs_key)
        except BaseException:
            self._env.close()
            raise
        continuous = isinstance(actions, Continuous)
        size = asked_size or _size(self._picture.screen_shape, CONTINUOUS_SIDE_MAX if continuous else DISCRETE_SIDE_MAX)
        in_color = color == "rgb" or (color is None and continuous)
        frame_shape = (3, *size) if in_color else size
        crop = (size[0] * CROP // OF_SIDE, size[1] * CROP // OF_SIDE) if continuous else size
        own = None if self._own.plain else self._own
        picture = None if self._picture.plain else self._picture
        self.spec = EnvSpec(
            env_id.id,
            env_id.name,
            frame_shape,
            crop,
            actions,
            as_registered=True,
            resize=resize,
            own_actions=own,
            picture=picture,
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
            if str(space.dtype) in DTYPES and np.abs([*low, *high]).max() < min(np.finfo(space.dtype).max, BOUND_MAX):
                self._own = Bounded(space.shape, str(space.dtype), tuple(low), tuple(high))
                return Continuous(len(low))
        raise UnsupportedEnvError(
            f"environment {env_id.id!r} has the action space {_line(space)}; only Discrete and bounded float Box work; "
            "declare finite bounds, or wrap the environment so that its actions are one of these"
        )

    def _observed(self, env_id: EnvId, obs_key: str | None) -> Picture:
        try:
            picture = find_picture(self._env.observation_space, obs_key)
        except NoPictureError as error:
            renders = "rgb_array" in (self._env.metadata or {}).get("render_modes", ())
            hint = "use --render-observations to learn from rendered images"
            if not renders or "--obs-key" in str(error):
                hint = "" if "; " in str(error) else "return uint8 images [H, W, 3]"
            raise ViewError(f"environment {env_id.id!r} {error}", hint) from error
        if picture.shape[2:] == (4,) and env_id.id not in _read_as_rgba:
            _read_as_rgba.add(env_id.id)
            LOG.warning(
                "environment %r: observes %s, read as red, green, blue and alpha; alpha is dropped. If these are "
                "stacked frames, return the newest one, because seer-edge stacks frames",
                env_id.id,
                list(picture.shape),
            )
        return picture

    def _first_render(self, env_id: EnvId, seed: int) -> Picture:
        """Render one screen, whose shape no space declares."""
        try:
            self._reset(seed)
            return rendered_picture(self._env.render())
        except (gymnasium.error.Error, ImportError) as error:
            raise UnavailableEnvError(f"environment {env_id.id!r} cannot be rendered: {message_of(error)}") from error
        except NotImplementedError as error:
            raise ViewError(
                f"environment {env_id.id!r} has no method render", "leave --render-observations out, or add the method"
            ) from error
        except NoPictureError as error:
            raise UnsupportedEnvError(f"environment {env_id.id!r} {error}") from error

    def reseed(self, seed: int) -> None:
        """Use `seed` for the next episode, as if the environment had been built with it."""
        self._seed = seed % SEEDS
        self._stepping = False

    def reset(self) -> Frame:
        """Start an episode and return its first frame. Raises UnsupportedEnvError for the API of old Gym."""
        observation = self._reset(self._seed)
        self._seed = None
        self._stepping = True
        self._return = 0.0
        self._length_steps = 0
        return self._frame(observation)

    def _reset(self, seed: int | None) -> Any:
        check_reset(self._env.unwrapped.reset)
        try:
            return observation_of(self._env.reset(seed=seed))
        except (OverflowError, ValueError):
            if seed is None or seed < SMALL_SEEDS:
                raise
        LOG.info("environment %r: does not take the seed %d; seeds below %d are used", self._id, seed, SMALL_SEEDS)
        return observation_of(self._env.reset(seed=seed % SMALL_SEEDS))

    def step(self, action: Action) -> Step:
        """Take one step. A step that is both terminated and truncated counts as terminated.

        Raises RuntimeError before `reset`, UnsupportedEnvError for the API of old Gym, and EnvironmentFailedError for
        an invalid picture, reward or end flag.
        """
        if not self._stepping:
            raise RuntimeError("reset the environment before its next step")
        own = self._own.own(action)
        with misread_step():
            result = self._env.step(np.int64(own) if isinstance(own, int) else own)  # as spaces draw them
        observation, raw_reward, terminated, truncated, info = parts_of_step(result)
        reward = finite_reward(raw_reward)
        terminated, truncated = truth("terminated", terminated), truth("truncated", truncated)
        self._return += reward
        self._length_steps += 1
        over = terminated or truncated
        self._stepping = not over
        episode = Episode(self._return, self._length_steps) if over else None
        return Step(
            self._frame(observation),
            reward,
            terminated,
            truncated and not terminated,
            episode,
            self._executed(info),
            truth('info["discard"]', info.get("discard", False)),
        )

    def _executed(self, info: Mapping[str, Any]) -> Action | None:
        """Return the agent's action for `info["executed_action"]`, which is in the environment's own units."""
        own = info.get("executed_action")
        if own is None:
            return None
        try:
            return self._own.of_agent(own)
        except (TypeError, ValueError) as error:
            raise EnvironmentFailedError(f'info["executed_action"] is {shown_value(own)}: {error}') from error

    def env_attribute(self, name: str) -> Any:
        """Return an attribute of the environment or of one of its wrappers, or None."""
        return self._env.get_wrapper_attr(name) if self._env.has_wrapper_attr(name) else None

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def state(self) -> None:
        """Return None: Gymnasium has no interface to save an environment."""

    def restore(self, state: State) -> None:
        """Raise StateError, because these environments have no saved states."""
        raise StateError(f"environment {self.spec.id!r} cannot be restored")

    def _frame(self, observation: Any) -> Frame:
        shown = self._env.render() if self._render else observation
        try:
            screen = self._picture.screen(shown, None if self._reported else self._report_outside)
        except PictureError as error:
            raise EnvironmentFailedError(str(error)) from error
        frame = to_frame(screen, self.spec.frame_shape, self.spec.resize)
        # The environment may draw its next screen into the same memory.
        return frame.copy() if np.may_share_memory(frame, screen) else frame

    def _report_outside(self, least: float, greatest: float) -> None:
        self._reported = True
        picture = self._picture
        LOG.warning(
            "environment %r: its picture has values from %g to %g, but declares %g to %g, so much of it is black or "
            "white; declare the bounds of its pixels in the observation space, such as 0 and 255",
            self._id,
            least,
            greatest,
            picture.low,
            picture.high,
        )


def _make(env_id: EnvId, render: bool, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    # Many users' environments do not accept render_mode, not even None.
    arguments: dict[str, Any] = {**kwargs, **({"render_mode": "rgb_array"} if render else {})}
    if render:
        prepare_rendering()
    try:
        with warnings.catch_warnings():
            # The environment may render even if its metadata does not list the mode.
            warnings.filterwarnings("ignore", ".*that is not in the possible render_modes")
            # Gymnasium's checker would only repeat in many lines what is checked here.
            return gymnasium.make(gymnasium.registry[env_id.registered], disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ImportError) as error:
        raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {message_of(error)}") from error
    except EnvError:
        raise
    except Exception as error:  # a user's class may raise any exception
        if render and isinstance(error, TypeError) and "render_mode" in str(error):
            raise ViewError(
                f"environment {env_id.id!r} does not accept render_mode",
                "leave --render-observations out if it observes images, or add the argument to the environment",
            ) from error
        hint = "; --env-kwargs sets its arguments" if isinstance(error, TypeError) and "argument" in str(error) else ""
        if isinstance(error.__cause__, Exception) and "raised from the environment creator" in str(error):
            error = error.__cause__
        # An EnvironmentFailedError, such as that of a camera, has a message for users.
        reason = message_of(error) if isinstance(error, EnvironmentFailedError) else describe_error(error)
        raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {reason}{hint}") from error


def _size(screen_shape: tuple[int, ...], side_max: int) -> tuple[int, int]:
    height, width = screen_shape[:2]
    return (height, width) if max(height, width) <= side_max else (side_max, side_max)


def _line(value: object) -> str:
    return " ".join(str(value).split())
