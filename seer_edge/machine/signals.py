"""A chance to stop in good order. No torch."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignal:
    """SIGTERM, Ctrl-C and a closed terminal ask the run to stop after the step it is in; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # Python lets only the main thread set handlers. In another one signals are the caller's matter.
        in_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if in_main else ():
            # What was ignored at the start stays ignored: under nohup a closed terminal means nothing.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *unused: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None
