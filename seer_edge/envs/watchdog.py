"""Notices a call into an environment that does not come back."""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seer_edge.errors import EXIT_UNSAFE
from seer_runtime.system.process import start_thread

_SLEEP_MAX_SECONDS = 1.0


class Watchdog:
    """Calls `on_hang` with one line when something watched lasts longer than `timeout_seconds`.

    It does so in a thread of its own, begun with the first call watched, while the caller's is stuck. `on_hang` ends
    the process; where it returns or raises, the process ends with exit status 75. Whoever comes back meanwhile never
    goes on. A process that was stopped and goes on has the time it was stopped for taken off.

    It sees a loop of Python's, a sleep, and C code that lets go of the interpreter; nothing in this process can see C
    code that holds on to it.
    """

    def __init__(self, timeout_seconds: float, on_hang: Callable[[str], object]) -> None:
        if not 0 < timeout_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"a timeout is a positive number of seconds, got {timeout_seconds}")
        self._timeout_seconds = timeout_seconds
        self._on_hang = on_hang
        # Held by the watchdog from the moment it calls a hang a hang.
        self._lock = threading.Lock()
        self._call: str | None = None
        self._deadline = 0.0
        self._begun = False
        self._closed = False

    @contextmanager
    def watch(self, call: str) -> Iterator[None]:
        """What runs inside is `call`, and must end in time."""
        if not self._begun:
            start_thread(self._run)
            self._begun = True
        try:
            with self._lock:
                self._call, self._deadline = call, time.monotonic() + self._timeout_seconds
            yield
        finally:
            self._come_back()

    def close(self) -> None:
        """Let the thread end, within a second, and what it would have called go at once."""
        self._closed = True
        # A cycle through the environment would keep an emulator alive to the interpreter's end, where it complains.
        self._on_hang = str

    def _come_back(self) -> None:
        interrupted: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._call = None
                break
            except BaseException as error:  # a signal's: no way past a watchdog that has called it a hang
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                left = self._deadline - time.monotonic() if self._call is not None else self._timeout_seconds
                if left <= 0:
                    self._end()
            nap_seconds = min(left, _SLEEP_MAX_SECONDS)
            begin = time.monotonic()
            time.sleep(nap_seconds)
            late = time.monotonic() - begin - nap_seconds
            if late > _SLEEP_MAX_SECONDS:
                with self._lock:
                    self._deadline += late

    def _end(self) -> None:
        try:
            self._on_hang(f"{self._call} has not come back for {self._timeout_seconds:g} seconds")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(EXIT_UNSAFE)
