"""An environment that is stepped at a fixed rate."""

from seer_edge.envs.actions import Action
from seer_edge.envs.environment import EnvSpec, Frame, Step
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.ticks import Ticks


class Paced:
    """The environment with one step for each tick."""

    def __init__(self, env: Guarded, ticks: Ticks) -> None:
        self._env, self._ticks = env, ticks

    @property
    def spec(self) -> EnvSpec:
        """See `Environment`."""
        return self._env.spec

    @property
    def new_scene(self) -> bool:
        """See `Environment`."""
        return self._env.new_scene

    def reset(self) -> Frame:
        """Start an episode. The next tick is one period after it."""
        frame = self._env.reset()
        self._ticks.restart()
        return frame

    def step(self, action: Action) -> Step:
        """Take one step, which ends with a tick."""
        with self._ticks.one():
            return self._env.step(action)
