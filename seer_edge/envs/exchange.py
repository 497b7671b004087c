"""The exchange between a program with its own loop and the thread that acts (`seer_edge.Learner`)."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENV = "seer_edge.envs.own_loop:OwnLoop"
"""What --env calls the environment."""
_open: "Exchange | None" = None


class LoopEndedError(Exception):
    """Raised in both threads when the other one has ended."""


@dataclass(frozen=True, eq=False)
class Given:
    """What the program gives for one call: a frame, and what followed its last action."""

    frame: "NDArray[np.uint8]"
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
        self._owed = False  # whether the program waits for an action, or soon will

    def give(self, given: Given, *, answered: bool = True) -> None:
        """Hand over a frame, which is `answered` by an action unless it ends an episode. Raises LoopEndedError."""
        with self._changed:
            self._put(self._given, given)
            self._owed = answered

    def given(self) -> Given:
        """Wait for a frame. Raises LoopEndedError."""
        got: Given = self._get(self._given)
        return got

    def send(self, action: Any) -> None:
        """Hand over an action. Raises LoopEndedError."""
        with self._changed:
            self._put(self._actions, action)
            self._owed = False

    def rest(self) -> None:
        """End the episode of the program: hand over None if it waits for an action, which does not follow any more."""
        with self._changed:
            if self._owed and not self._ended:
                self.send(None)

    def action(self) -> Any:
        """Wait for an action. Raises LoopEndedError."""
        return self._get(self._actions)

    def end(self) -> None:
        """Raise LoopEndedError in all waiting threads."""
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
        """Raise LoopEndedError in all waiting threads, and allow another exchange to be opened."""
        global _open
        _open = None
        self.end()


def exchange() -> Exchange | None:
    """Return the exchange that is open in this process."""
    return _open
