"""An environment whose failures cannot be taken for the runtime's own."""

import math

from seer_edge.envs import Action, Environment, EnvSpec, Frame, Step
from seer_edge.errors import EnvironmentFailedError, origin


class Guarded:
    """Passes every call on; raises EnvironmentFailedError for whatever `env` raises and for rewards not finite."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids and shapes."""
        return self._env.spec

    def reset(self) -> Frame:
        """Begin an episode: its first frame."""
        try:
            return self._env.reset()
        except Exception as error:
            raise EnvironmentFailedError(origin(error)) from error

    def step(self, action: Action) -> Step:
        """Take `action`."""
        try:
            step = self._env.step(action)
        except Exception as error:
            raise EnvironmentFailedError(origin(error)) from error
        if not math.isfinite(step.reward):
            raise EnvironmentFailedError(f"a reward of {step.reward}")
        return step

    def close(self) -> None:
        """Let go of the environment."""
        self._env.close()
