"""Detect a call into an environment that does not return in time."""

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
    """Watchdog thread that calls `on_hang` with one line when a watched call takes longer than `timeout_seconds`.

    The thread starts with the first watched call. `on_hang` is expected to end the process. If it returns or raises,
    the watchdog ends the process with exit status 75. A call that returns while `on_hang` runs never continues. Time
    during which the whole process was stopped (SIGSTOP) does not count.

    The watchdog detects loops in Python, sleeps, and C code that releases Python's global lock. It cannot detect C code
    that holds the lock.
    """

    def __init__(self, timeout_seconds: float, on_hang: Callable[[str], object]) -> None:
        if not 0 < timeout_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"timeout_seconds must be positive and finite, got {timeout_seconds}")
        self._timeout_seconds = timeout_seconds
        self._on_hang = on_hang
        # The watchdog thread takes this lock when it detects a hang and never releases it.
        self._lock = threading.Lock()
        self._call: str | None = None
        self._deadline = 0.0
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Start the thread, if it does not run yet. Raises MemoryError."""
        if not self._started:
            start_thread(self._run)
            self._started = True

    @contextmanager
    def watch(self, call: str) -> Iterator[None]:
        """Context manager: require the block, named `call` in messages, to end in time. Raises MemoryError."""
        self.start()
        try:
            with self._lock:
                self._call, self._deadline = call, time.monotonic() + self._timeout_seconds
            yield
        finally:
            self._end_call()

    def close(self) -> None:
        """End the thread within a second and drop the reference to `on_hang`."""
        self._closed = True
        # A reference cycle through `on_hang` would keep an emulator alive until interpreter exit, where it complains.
        self._on_hang = str

    def _end_call(self) -> None:
        """Mark the call as over, and raise any interrupt that arrived in the attempt."""
        interrupted: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._call = None
                break
            except BaseException as error:  # from a signal handler; it must not get past a detected hang
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                left = self._deadline - time.monotonic() if self._call is not None else self._timeout_seconds
                if left <= 0:
                    self._end_process()
            nap_seconds = min(left, _SLEEP_MAX_SECONDS)
            begin = time.monotonic()
            time.sleep(nap_seconds)
            late = time.monotonic() - begin - nap_seconds
            if late > _SLEEP_MAX_SECONDS:
                with self._lock:
                    self._deadline += late

    def _end_process(self) -> None:
        try:
            self._on_hang(f"{self._call} did not return within {self._timeout_seconds:g} seconds")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(EXIT_UNSAFE)
