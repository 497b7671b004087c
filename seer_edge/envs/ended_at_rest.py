"""Signals that end a command while it plays an environment in real time."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def ending_afterwards(moves: bool = True) -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP raise KeyboardInterrupt inside, and end the process after the block.

    Signals that are handled or ignored stay so, and so do those of a caller in another thread. Enter a `StopSignal`
    inside, so that its second signal comes here. Does nothing unless the environment `moves` something.
    """
    if not moves:
        yield
        return
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # the environment comes to rest first
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    both = (signal.SIGTERM, signal.SIGHUP) if in_main else ()
    ours = [number for number in both if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])
