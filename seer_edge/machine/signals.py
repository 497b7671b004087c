"""Turn stop signals into an orderly end of a run. Imports no torch."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from seer_edge.envs.ended_at_rest import at_rest


class _Handler:
    """A handler of signals that calls `record`.

    Attributes:
        spent: whether it has restored earlier handlers. `Isolation` must not install it again then.

    """

    def __init__(self, record: Callable[[int], None]) -> None:
        self.spent = False
        self._record = record

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._record(number)


class StopSignal:
    """Context manager: record SIGTERM, SIGINT and SIGHUP, so that the loop can stop after the current step.

    Call it to ask whether to stop. `received` is the number of the first signal, or None. Another SIGTERM or SIGINT
    ends the process at once, or if something moves, as soon as that is at rest. Another SIGHUP changes nothing: when a
    terminal is closed, the kernel sends one and the shell may send one too.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._told = False  # whether a signal has arrived
        self._ends_by: int | None = None  # the signal that ends the process after this block
        self._handler = _Handler(self._record)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        _active.append(self)
        # Only the main thread may set handlers. A run in another thread leaves signals to the caller.
        in_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if in_main else ():
            # Keep an ignored signal ignored: under nohup the run survives a closed terminal.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handler)
        return self

    def _record(self, number: int) -> None:
        if not self._told:
            self._told = True
            self.received = number
            at_rest(self._end_at_once)
        elif number != signal.SIGHUP:  # and something moves
            self._end_at_once()
            if self._previous[number] is signal.SIG_DFL:
                self._ends_by = number
                raise KeyboardInterrupt
            signal.raise_signal(number)

    def _end_at_once(self) -> None:
        """Let the next SIGTERM or SIGINT end the process, also while it runs C code."""
        if self not in _active:  # the block has ended since
            return
        self._handler.spent = True
        self._restore(signal.SIGTERM, signal.SIGINT)

    def _restore(self, *numbers: int) -> None:
        for number, handler in self._previous.items():
            if number in numbers:
                signal.signal(number, handler)

    def request(self) -> None:
        """Ask to stop, as SIGTERM would."""
        self.received = signal.SIGTERM

    def leave_child(self) -> None:
        """Restore the previous handlers in a child process, which an environment may have started with its own."""
        for number, handler in self._previous.items():
            if signal.getsignal(number) is self._handler:
                signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        _active.remove(self)
        self._restore(*self._previous)
        if self._ends_by is not None and kind is KeyboardInterrupt:
            signal.raise_signal(self._ends_by)

    def __call__(self) -> bool:
        """Return whether a stop signal was received."""
        return self.received is not None


class PauseSignal:
    """Context manager: SIGUSR1 pauses, and the next one ends the pause. Call it to ask whether to pause.

    Only the main thread may set a handler, so a run in another thread is not paused. A handler that the environment has
    set stays.
    """

    def __init__(self) -> None:
        self._paused = False
        self._previous: Any = None  # the handler before; None where it stays

    def __enter__(self) -> "PauseSignal":
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, signal.SIG_IGN):
            self._previous = signal.signal(signal.SIGUSR1, self._toggle)
        return self

    def _toggle(self, number: int, frame: FrameType | None) -> None:
        self._paused = not self._paused

    def set(self, paused: bool) -> None:
        """Pause, or end the pause, as SIGUSR1 does."""
        self._paused = paused

    def __exit__(self, *unused: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGUSR1, self._previous)

    def __call__(self) -> bool:
        """Return whether the run is paused."""
        return self._paused


def ignore_pauses() -> None:
    """Ignore SIGUSR1 outside a `PauseSignal`. By default it ends a process, and a robot keeps its last action."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


_active: list[StopSignal] = []


def _in_child() -> None:
    """Leave signals to a forked process: it has no loop that would stop, so our handlers would ignore them."""
    if threading.current_thread() is threading.main_thread():
        for stop in reversed(_active):
            stop.leave_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
