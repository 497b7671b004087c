"""An environment whose steps come from a program that has a loop of its own (`seer_edge.Learner`)."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.names import UnavailableEnvError
from seer_edge.envs.ticks import tick_now

ENV = "seer_edge.envs.own_loop:OwnLoop"
"""What --env calls it."""
_open: "Exchange | None" = None


class LoopEndedError(Exception):
    """Raised in both threads when the other one has ended."""


@dataclass(frozen=True, eq=False)
class Given:
    """What the program gives for one call: a frame, and what followed its last action."""

    frame: NDArray[np.uint8]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)


class Exchange:
    """Where the program's loop and the thread that acts meet: frames go in, actions come out.

    Attributes:
        begun: set when the run waits for the first frame.

    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.planned = False  # whether the plan has seen its first frame
        self._given: deque[Given] = deque()
        self._actions: deque[Any] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def give(self, given: Given) -> None:
        """Hand over a frame. Raises LoopEndedError."""
        self._put(self._given, given)

    def given(self) -> Given:
        """Wait for a frame. Raises LoopEndedError."""
        got: Given = self._get(self._given)
        return got

    def send(self, action: Any) -> None:
        """Hand over an action. Raises LoopEndedError."""
        self._put(self._actions, action)

    def action(self) -> Any:
        """Wait for an action. Raises LoopEndedError."""
        return self._get(self._actions)

    def end(self) -> None:
        """Let everyone who waits go on with LoopEndedError."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, queue: deque[Any], item: Any) -> None:
        with self._changed:
            if self._ended:
                raise LoopEndedError
            queue.append(item)
            self._changed.notify_all()

    def _get(self, queue: deque[Any]) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: queue or self._ended)
            if not queue:
                raise LoopEndedError
            return queue.popleft()

    def open(self) -> None:
        """Let the next `OwnLoop` use this exchange. Raises RuntimeError if another one is open in this process."""
        global _open
        if _open is not None:
            raise RuntimeError("another seer_edge.Learner is open in this process; close it first")
        _open = self

    def close(self) -> None:
        """Let everyone who waits go on, and another exchange be opened."""
        global _open
        _open = None
        self.end()


class OwnLoop(gymnasium.Env[NDArray[np.uint8], Any]):
    """Frames and rewards of the `Exchange` that is open in this process.

    `shape` is that of a frame, `[H, W]` or `[H, W, 3]`. `actions` is a number of actions, or `low` and `high` of a box.
    """

    def __init__(self, shape: list[int], actions: int | list[list[float]]) -> None:
        if _open is None:
            raise UnavailableEnvError(
                "the environment of this run is a program with a loop of its own; "
                "continue the run there, with seer_edge.Learner"
            )
        self._exchange = _open
        self.observation_space = gymnasium.spaces.Box(0, 255, tuple(shape), np.uint8)
        if isinstance(actions, int):
            self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(actions)
        else:
            low, high = np.asarray(actions, np.float32)
            self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Wait for the first frame of an episode. The plan, which comes before all frames, sees a black one."""
        if not self._exchange.planned:
            self._exchange.planned = True
            return np.zeros(self.observation_space.shape or (), np.uint8), {}
        self._exchange.begun.set()
        return self._exchange.given().frame, {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hand over the action, and wait for what follows it."""
        self._exchange.send(action)
        given = self._exchange.given()
        tick_now()
        return given.frame, given.reward, given.terminated, given.truncated, given.info
