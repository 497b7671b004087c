"""Notice that a step is late while it is still running."""

import math
import threading
import time
from collections.abc import Callable

from seer_runtime.system.process import start_thread


class LateWatch:
    """Calls `on_late` from its own thread if `expect` is not called again in time.

    The thread starts with the first `expect`.

    Attributes:
        late: whether that has happened since the last `off`.

    """

    def __init__(self, on_late: Callable[[], object]) -> None:
        self.late = False
        self._on_late = on_late
        self._changed = threading.Condition()
        self._deadline = math.inf
        self._started = self._closed = False

    def expect(self, seconds: float) -> None:
        """Expect another call within so many seconds."""
        if not self._started:
            self._started = True
            start_thread(self._run)
        with self._changed:
            slept = self._deadline == math.inf
            self._deadline = time.monotonic() + seconds
            if slept:
                self._changed.notify()

    def off(self) -> None:
        """Expect nothing."""
        with self._changed:
            self._deadline, self.late = math.inf, False

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while self._next():
            self._on_late()

    def _next(self) -> bool:
        """Wait until a call is late. Return False once the watch is closed."""
        with self._changed:
            while not self._closed:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    self._deadline, self.late = math.inf, True
                    return True
                self._changed.wait(None if left == math.inf else left)
            return False
