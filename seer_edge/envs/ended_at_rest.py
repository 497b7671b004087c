"""What moves comes to rest before a signal ends the process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)
_moving = 0
_at_rest: list[Callable[[], object]] = []


@contextmanager
def moving() -> Iterator[None]:
    """Context manager: something moves inside, and is brought to rest before the block ends."""
    global _moving
    _moving += 1
    try:
        yield
    finally:
        _moving -= 1
        while _at_rest and not _moving and _in_main():  # another thread cannot set handlers
            _at_rest.pop()()


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def at_rest(call: Callable[[], object]) -> None:
    """Call `call` in the main thread once nothing moves: now, or after the blocks of `moving`."""
    if _moving:
        _at_rest.append(call)
    else:
        call()


class _Interrupt:
    """A handler that raises KeyboardInterrupt at its first signal.

    Attributes:
        received: the number of that, or None.
        raises: whether it raises at all.

    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.raises = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self.raises:
                raise KeyboardInterrupt


@contextmanager
def ending_afterwards() -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP raise KeyboardInterrupt inside, and end the process after the block.

    Signals that are handled or ignored stay so, and so do those of a caller in another thread.
    """
    interrupt, ours = _Interrupt(), list[signal.Signals]()
    try:
        try:
            for number in _NUMBERS if _in_main() else ():
                if signal.getsignal(number) is signal.SIG_DFL:
                    ours.append(number)
                    signal.signal(number, interrupt)
            yield
        finally:
            interrupt.raises = False
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if interrupt.received is not None:
            signal.raise_signal(interrupt.received)


def _in_child() -> None:
    """Leave signals to a forked process, which controls nothing."""
    global _moving
    _moving = 0
    _at_rest.clear()
    if _in_main():
        for number in _NUMBERS:
            if isinstance(signal.getsignal(number), _Interrupt):
                signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
