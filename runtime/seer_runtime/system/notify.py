"""Service notification for systemd (sd_notify): reports that the process is ready and alive."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

_READY = b"READY=1"
_ALIVE = b"WATCHDOG=1"


class ServiceWatchdog:
    """Sends READY=1 at the first call of `alive`, then WATCHDOG=1 at half the interval of the unit's WatchdogSec.

    `variables` is the process environment. Without NOTIFY_SOCKET, nothing is sent. Without WATCHDOG_USEC, or if
    WATCHDOG_PID names another process, only READY=1 is sent. Errors on sending are ignored, because they must not stop
    the service.
    """

    def __init__(
        self, variables: Mapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL byte that marks an abstract socket address.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_seconds = _interval_seconds(variables) / 2
        self._clock = clock
        self._next = 0.0 if address else float("inf")
        self._message = _READY

    def alive(self) -> None:
        """Send the notification that is due, if any. Call it between steps; it costs under 1 us if nothing is due."""
        now = self._clock()
        if now < self._next:
            return
        self._send(self._message)
        self._message, self._next = _ALIVE, now + self._every_seconds

    def asked(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function that calls `alive` and then returns `stop()`.

        The training and evaluation loops ask for a stop between steps, so this notifies systemd from both.
        """

        def ask() -> bool:
            self.alive()
            return stop()

        return ask

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(0)  # a full queue must not block the run
            out.sendto(message, self._address)


def _interval_seconds(variables: Mapping[str, str]) -> float:
    """Return the seconds in WATCHDOG_USEC, or infinity if it is invalid or meant for another process."""
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    text = variables.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else float("inf")
