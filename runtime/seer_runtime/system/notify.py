"""Telling systemd that the service is up and alive (sd_notify): a datagram to the socket that it names."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

_READY = b"READY=1"
_ALIVE = b"WATCHDOG=1"


class ServiceWatchdog:
    """Says READY=1 when first told that all is well, then WATCHDOG=1 at half the interval that the unit asks for.

    Without NOTIFY_SOCKET in `variables` nothing is sent, and without WATCHDOG_USEC, or where that is meant for another
    process (WATCHDOG_PID), nothing after READY=1. What cannot be sent is not: a service is not to fail of it.
    """

    def __init__(
        self, variables: Mapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # An @ stands for the zero byte of a name that is in no file system.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_seconds = _interval_seconds(variables) / 2
        self._clock = clock
        self._next = 0.0 if address else float("inf")
        self._message = _READY

    def alive(self) -> None:
        """Between two steps: all is well. A fraction of a microsecond while nothing is due."""
        now = self._clock()
        if now < self._next:
            return
        self._send(self._message)
        self._message, self._next = _ALIVE, now + self._every_seconds

    def asked(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """`stop`, and whoever asks it is alive: it is asked between any two steps, of training and of evaluation."""

        def ask() -> bool:
            self.alive()
            return stop()

        return ask

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.settimeout(0)  # a full queue must not hold the run up
            out.sendto(message, self._address)


def _interval_seconds(variables: Mapping[str, str]) -> float:
    """What WATCHDOG_USEC says, for ever where it says nothing to this process."""
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    text = variables.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else float("inf")
