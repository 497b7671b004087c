"""What the control thread gives to the learner: the frames and steps of the environment, in order."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from seer_edge.envs import Action, Frame, Step
from seer_runtime.system.ledger import Ledger, Line

WAIT_SECONDS = 1.0


class ControlEndedError(Exception):
    """Raised to the learner when no more steps will come."""


@dataclass(frozen=True, eq=False)
class Began:
    """The first frame of an episode, or of what follows a gap.

    `new_scene` is false after a lost life, where the game continues.
    """

    frame: Frame
    new_scene: bool


@dataclass(frozen=True, eq=False)
class Stepped:
    """A step, and the action of the agent's space that was executed."""

    action: Action
    step: Step


class Feed:
    """A bounded queue from the control thread to the learner. Its frames count as workspace.

    `put` never waits. If there is no room, it drops the event and everything after it up to the next `Began`, which the
    control thread sends as soon as `gap` is true and there is room again.

    Attributes:
        dropped: steps that were dropped.
        waits: called at least once a second while the learner waits for the control thread, for example in a pause.
        gap: whether steps were dropped since the last event that was kept.
        error: why no more events come; None while they do.

    """

    def __init__(self, frame_shape: tuple[int, ...], ledger: Ledger, frames: int) -> None:
        """Reserve `frames` frames of `frame_shape`."""
        self._frames = ledger.allocate(Line.WORKSPACE, (frames, *frame_shape), "uint8")
        self._events: deque[Began | Stepped] = deque()
        self._put = self._given = self._taken = 0  # events, steps given, steps taken
        self._ready = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.dropped, self.gap = 0, False
        self.waits: Callable[[], object] = lambda: None

    @property
    def capacity(self) -> int:
        """How many events it holds."""
        return len(self._frames) - 1  # the learner may still read the frame of the last event that it took

    @property
    def waiting(self) -> int:
        """How many steps wait for the learner."""
        return self._given - self._taken

    @property
    def full(self) -> bool:
        """Whether the next event would be dropped."""
        return len(self._events) >= self.capacity

    # --- control thread ------------------------------------------------------------------------------------

    def put(self, event: Began | Stepped) -> bool:
        """Add an event with a copy of its frame, or drop it. Return whether it was added."""
        if self.full or (self.gap and isinstance(event, Stepped)):
            self.gap = True
            self.dropped += isinstance(event, Stepped)
            return False
        self.gap = False
        frame = self._frames[self._put % len(self._frames)]
        self._put += 1
        if isinstance(event, Began):
            frame[...] = event.frame
            self._events.append(replace(event, frame=frame))
        else:
            frame[...] = event.step.frame
            self._events.append(replace(event, step=replace(event.step, frame=frame)))
            self._given += 1
        self._ready.release()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """No more events will come. The learner gets those that wait, and then `error` or `ControlEndedError`."""
        self.error = error or ControlEndedError()
        self._ready.release()

    # --- learner -------------------------------------------------------------------------------------------

    def take(self) -> Began | Stepped:
        """Wait for the next event and return it. Its frame is valid until the next call.

        Raises the error of `end` once no events are left.
        """
        while not self._ready.acquire(timeout=WAIT_SECONDS):
            self.waits()
        if not self._events:
            self._ready.release()
            assert self.error is not None
            raise self.error
        event = self._events.popleft()
        self._taken += isinstance(event, Stepped)
        return event
