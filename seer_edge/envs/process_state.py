"""State of the process that belongs to the program, and that the code of an environment may change."""

import _signal  # type: ignore[import-not-found]  # `signal.getsignal` takes 12 us, this 0.1 us
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np

from seer_edge.envs.torch_state import restore_torch, torch_options

LOG = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
"""Signals whose handlers belong to the program."""
_NUMBERS = tuple(map(int, SIGNALS))
_STREAMS = (0, 1, 2)
_reported: set[str] = set()


class ProcessState:
    """Handlers, filters and options of libraries, as they are now. With `thorough` also those that are slow to read."""

    def __init__(self, thorough: bool) -> None:
        in_main = threading.get_ident() == threading.main_thread().ident  # other threads cannot set handlers
        self._handlers = list(map(_signal.getsignal, _NUMBERS)) if in_main else None
        self._filters, self._listed = warnings.filters, list(warnings.filters)
        self._torch = torch_options()
        self._recursion_limit = sys.getrecursionlimit()
        self._alarm = _signal.getitimer(_signal.ITIMER_REAL)[0]
        self._thorough = thorough
        if thorough:
            self._numpy_errors, self._disabled = np.geterr(), logging.root.manager.disable
            self._descriptors = {number: _copy(number) for number in _STREAMS}

    def restore(self) -> None:
        """Restore what differs."""
        if _signal.getitimer(_signal.ITIMER_REAL)[0] and not self._alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)  # first, because it may ring at any time
            _warn_once(
                "the environment left an alarm running (signal.alarm or setitimer), which was cancelled: it would have "
                "interrupted training; let the environment cancel it before its call returns"
            )
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        handlers = self._handlers
        if handlers is not None and (self._thorough or list(map(_signal.getsignal, _NUMBERS)) != handlers):
            for number, handler in zip(_NUMBERS, handlers, strict=True):
                _restore_handler(number, handler)
        if warnings.filters is not self._filters or warnings.filters != self._listed:
            warnings.simplefilter("ignore", append=True)  # forget which warnings were shown under other filters
            warnings.filters[:] = self._listed  # type: ignore[index]
        restore_torch(self._torch)
        if self._thorough:
            np.seterr(**self._numpy_errors)  # before numpy 2 it is not a context variable
            logging.disable(self._disabled)
            _enable_loggers()
            for number, copy in self._descriptors.items():
                _restore_descriptor(number, copy)


def _restore_handler(number: int, handler: Any) -> None:
    """Install `handler` again, also where a C library has installed another one without Python's knowledge."""
    # A handler that is spent has replaced itself because its signal arrived. None was not installed by Python.
    if handler is not None and not getattr(handler, "spent", False):
        signal.signal(number, handler)


def _enable_loggers() -> None:
    """Enable the loggers of this program: `logging.config` disables all that exist."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in ("seer_edge", "seer_runtime") and isinstance(logger, logging.Logger):
            logger.disabled = False


def _copy(descriptor: int) -> int | None:
    with contextlib.suppress(OSError):  # it was closed before the program began
        return os.dup(descriptor)
    return None


def _restore_descriptor(number: int, copy: int | None) -> None:
    """Open a standard stream again that was closed: the next file would get its number, and all that is printed."""
    if copy is None:
        return
    try:
        os.fstat(number)
    except OSError:
        os.dup2(copy, number)
    os.close(copy)


def _warn_once(text: str) -> None:
    if text not in _reported:
        _reported.add(text)
        LOG.warning(text)
