"""Turn stop signals into an orderly end of a run. Imports no torch."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignal:
    """Context manager: record SIGTERM, SIGINT and SIGHUP, so that the loop can stop after the current step.

    Call it to ask whether to stop. `received` is the signal's number, or None. The first signal restores the previous
    handlers, so a second one ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # Only the main thread may set handlers. A run in another thread leaves signals to the caller.
        in_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if in_main else ():
            # Keep an ignored signal ignored: under nohup the run survives a closed terminal.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._record)
        return self

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *unused: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Return whether a stop signal was received."""
        return self.received is not None
