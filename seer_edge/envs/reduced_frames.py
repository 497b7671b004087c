"""An environment whose frames are reduced to few gray levels, for cameras whose low bits are noise."""

import dataclasses
from typing import Any

from seer_edge.envs.actions import Action
from seer_edge.envs.checks import checked_frame, checked_step
from seer_edge.envs.environment import Environment, EnvSpec, Frame, Step
from seer_runtime.policy.preprocess import to_gray_levels
from seer_runtime.system.state import State


class ReducedFrames:
    """The environment `env` with frames of `levels` gray levels; see `to_gray_levels`.

    `env` may keep the frames that it returns, so the reduced frames are new arrays. Raises EnvironmentFailedError for
    an invalid frame or step, because an invalid frame cannot be reduced.
    """

    def __init__(self, env: Environment, levels: int) -> None:
        self._env = env
        self._levels = levels
        if hasattr(env, "reseed"):  # `Guarded` keeps only these open for another use
            self.reseed = env.reseed

    def env_attribute(self, name: str) -> Any:
        """Return an attribute of the environment, or None."""
        inner = getattr(self._env, "env_attribute", None)
        return getattr(self._env, name, None) if inner is None else inner(name)

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids, shapes and action space."""
        return self._env.spec

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` started a new scene."""
        return self._env.new_scene

    def reset(self) -> Frame:
        """Start an episode and return its first frame."""
        return to_gray_levels(checked_frame(self._env.reset(), self.spec), self._levels)

    def step(self, action: Action) -> Step:
        """Take `action` and return the step."""
        step = checked_step(self._env.step(action), self.spec)
        return dataclasses.replace(step, frame=to_gray_levels(step.frame, self._levels))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def state(self) -> State | None:
        """Return the state of the trajectory, or None where this kind of environment cannot be saved."""
        return self._env.state()

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises StateError for an invalid one."""
        self._env.restore(state)
