"""What an environment hands out, looked at before it is believed. Each check raises EnvironmentFailedError."""

import math
import reprlib
from typing import Any

import numpy as np

from seer_edge.envs import EnvSpec, Episode, Frame, Step
from seer_edge.errors import EnvironmentFailedError


def checked_frame(frame: Any, spec: EnvSpec) -> Frame:
    """`frame`, which is uint8 `frame_shape`."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != spec.frame_shape:
        raise EnvironmentFailedError(f"a frame of {shown(frame)} where uint8 {list(spec.frame_shape)} was promised")
    return frame


def checked_step(step: Any, spec: EnvSpec) -> Step:
    """`step` with its reward as a float and its ends as bools; at most one of them, and an episode only with one."""
    if not isinstance(step, Step):
        raise EnvironmentFailedError(f"a step that is {shown(step)}")
    frame = checked_frame(step.frame, spec)
    reward = finite_reward(step.reward)
    terminated, truncated = truth("terminated", step.terminated), truth("truncated", step.truncated)
    if terminated and truncated:
        raise EnvironmentFailedError("a step both terminated and truncated")
    if step.episode is not None:
        _check_episode(step.episode, over=terminated or truncated)
    return Step(frame, reward, terminated, truncated, step.episode)


def finite_reward(reward: Any) -> float:
    """A number, a numpy scalar or an array without dimensions, as a float."""
    if type(reward) is not float:
        array = np.asarray(reward)
        if array.shape != () or array.dtype.kind not in "biuf":
            raise EnvironmentFailedError(f"a reward of {shown(reward)}")
        return finite_reward(float(array))
    if not math.isfinite(reward):
        raise EnvironmentFailedError(f"a reward of {reward}")
    return float(reward)


def truth(name: str, value: Any) -> bool:
    """A bool of Python's or numpy's."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype == np.bool_:
        return bool(value)
    raise EnvironmentFailedError(f"{name} is {shown(value)}, not true or false")


def shown(value: Any) -> str:
    """What `value` is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"


def _check_episode(episode: Any, *, over: bool) -> None:
    if not over:
        raise EnvironmentFailedError("an episode that is over in a step that is not its last")
    sane = isinstance(episode, Episode) and type(episode.length_steps) is int and episode.length_steps >= 1
    if not (sane and type(episode.episode_return) is float and math.isfinite(episode.episode_return)):
        raise EnvironmentFailedError(f"an episode that is {shown(episode)}")
