"""An environment whose steps come from a program with its own loop."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.exchange import Exchange, LoopEndedError, exchange
from seer_edge.envs.names import UnsupportedEnvError
from seer_edge.envs.ticks import tick_now


class OwnLoop(gymnasium.Env[NDArray[np.uint8], Any]):
    """Frames and rewards of the `Exchange` that is open in this process.

    `shape` is that of a frame, `[H, W]` or `[H, W, 3]`. `actions` is a number of actions, or `low` and `high` of a box.
    """

    def __init__(self, shape: list[int], actions: int | list[list[float]]) -> None:
        if exchange() is None:
            raise UnsupportedEnvError(
                "the environment is a program with its own loop; use seer_edge.Learner there to learn, and "
                "seer_edge.Policy to act"
            )
        self.observation_space = gymnasium.spaces.Box(0, 255, tuple(shape), np.uint8)
        if isinstance(actions, int):
            self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(actions)
        else:
            low, high = np.asarray(actions, np.float32)
            self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    @property
    def _exchange(self) -> Exchange:
        """The one that is open now: an environment may be used again by the next `Learner`."""
        opened = exchange()
        if opened is None:
            raise LoopEndedError
        return opened

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Wait for the first frame of an episode. The plan, which comes before all frames, sees a black one."""
        given = self._exchange
        if not given.planned:
            given.planned = True
            return np.zeros(self.observation_space.shape or (), np.uint8), {}
        given.begun.set()
        return given.given().frame, {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hand over the action, and wait for what follows it."""
        meeting = self._exchange
        meeting.send(action)
        given = meeting.given()
        tick_now()
        return given.frame, given.reward, given.terminated, given.truncated, given.info

    def rest(self) -> None:
        """Let the program bring everything to rest at once, not only when the run has saved and ended."""
        opened = exchange()
        if opened is not None:
            opened.rest()
