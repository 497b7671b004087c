"""Checks of the frames, rewards and flags that an environment returns. Each raises EnvironmentFailedError."""

import math
from typing import Any

import numpy as np

from seer_edge.envs.environment import EnvSpec, Episode, Frame, Step
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.pictures import shown_value


def checked_frame(frame: Any, spec: EnvSpec) -> Frame:
    """Return `frame` if it is a uint8 array of shape `spec.frame_shape`."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != spec.frame_shape:
        raise EnvironmentFailedError(f"the frame is {shown_value(frame)}, not uint8 {list(spec.frame_shape)}")
    return frame


def checked_step(step: Any, spec: EnvSpec) -> Step:
    """Return `step` with its reward as a float and both end flags as bools.

    At most one flag may be true, and `episode` may be set only with one of them.
    """
    if not isinstance(step, Step):
        raise EnvironmentFailedError(f"the step is {shown_value(step)}, not a Step")
    frame = checked_frame(step.frame, spec)
    reward = finite_reward(step.reward)
    terminated, truncated = truth("terminated", step.terminated), truth("truncated", step.truncated)
    if terminated and truncated:
        raise EnvironmentFailedError("the step is both terminated and truncated")
    if step.episode is not None:
        _check_episode(step.episode, over=terminated or truncated)
    action = step.action
    if action is not None and not _is_action(_array(action), spec):
        raise EnvironmentFailedError(f"the executed action is {shown_value(action)}, not one of {spec.actions}")
    return Step(frame, reward, terminated, truncated, step.episode, action, truth("discard", step.discard))


def finite_reward(reward: Any) -> float:
    """Convert a finite number, or an array or list of one number, to a float."""
    if type(reward) is not float:
        array = _array(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise EnvironmentFailedError(f"the reward is {shown_value(reward)}, not a number")
        return finite_reward(float(array.item()))
    if not math.isfinite(reward):
        raise EnvironmentFailedError(f"the reward is {reward}, not a finite number")
    return float(reward)


def truth(name: str, value: Any) -> bool:
    """Convert a bool, 0 or 1, or an array or list of one of them, to a bool; `name` is for the message."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = _array(value)
    if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
        return bool(array.item())
    raise EnvironmentFailedError(f"{name} is {shown_value(value)}, not true or false")


def _is_action(action: Any, spec: EnvSpec) -> bool:
    fits = action.shape == spec.actions.shape and np.can_cast(action.dtype, spec.actions.dtype, "same_kind")
    return bool(fits and spec.actions.holds(action[None]))


def _array(value: Any) -> Any:
    try:
        return np.asarray(value)
    except Exception:  # of lists of different lengths, or of a library's tensor
        return np.asarray(None)


def _check_episode(episode: Any, *, over: bool) -> None:
    if not over:
        raise EnvironmentFailedError("the step reports a finished episode, but is neither terminated nor truncated")
    sane = isinstance(episode, Episode) and type(episode.length_steps) is int and episode.length_steps >= 1
    if not (sane and type(episode.episode_return) is float and math.isfinite(episode.episode_return)):
        raise EnvironmentFailedError(
            f"the episode is {shown_value(episode)}, not an Episode with a finite return and a length of 1 step or more"
        )
