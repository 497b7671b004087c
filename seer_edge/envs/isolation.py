"""Run the code of an environment without letting it change the process around it.

An environment is a guest in the process. It may install signal handlers, change the working directory, print, or set
options of numpy and torch. `Isolation.run` calls it and restores afterwards what the rest of the program needs.
"""

import _signal  # type: ignore[import-not-found]  # `signal.getsignal` takes 12 us, this 0.1 us
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

import numpy as np

from seer_edge.envs.gl_context import GlContext
from seer_edge.envs.global_generators import GlobalGenerators

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
"""Signals whose handlers belong to the program."""
_NUMBERS = tuple(map(int, SIGNALS))

_inside: ContextVar[bool] = ContextVar("_inside", default=False)
_process = threading.Lock()
"""Held while an environment runs. Of several threads only the first isolates its environment from the process."""


class Isolation:
    """Runs the calls of one environment, whose global random generators start from `seed`.

    Restored after each call: handlers of `SIGNALS`, the working directory, `sys.stdout` and `sys.stderr`, filters of
    warnings, torch's default dtype, gradient mode, determinism and threads, and numpy's error state. The environment
    keeps a working directory, numpy error state, context variables and random generators of its own, which it finds
    again in its next call. So it does its OpenGL context, if another environment has made another one current. What it
    prints goes to stderr.
    """

    _loaded: "Isolation | None" = None  # the one whose generators are in use
    _program: GlobalGenerators | None = None  # the generators of the program, while an environment uses them

    def __init__(self, seed: int) -> None:
        self.generators = GlobalGenerators(seed)
        self._context = copy_context()
        self._context.run(_inside.set, True)
        self._gl: GlContext | None = None
        self._directory: str | None = None  # the environment's own; None if it is that of the program
        self._program_directory: str | None = None
        self._streams: tuple[Any, Any] | None = None  # the program's stdout and stderr, while the environment runs

    def run(
        self, thorough: bool, call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Return `call(*args, **kwargs)`. A `thorough` call also restores what takes longer to check."""
        if _inside.get():
            return call(*args, **kwargs)
        if not _process.acquire(blocking=False):
            return self._context.run(call, *args, **kwargs)
        try:
            self._load()
            before = _ProcessState(thorough)
            try:
                self._enter()
                return self._context.run(call, *args, **kwargs)
            finally:
                self.leave()
                before.restore()
        finally:
            _process.release()

    def leave(self) -> None:
        """Restore the program's working directory and streams. Another thread may call it if the environment hangs."""
        if self._streams is not None:
            (sys.stdout, sys.stderr), self._streams = self._streams, None
        directory = _directory()
        self._directory = None
        if directory != self._program_directory and self._program_directory is not None:
            self._directory = directory
            _change_directory(self._program_directory)
        self._gl = GlContext.current()

    def reseed(self, seed: int) -> None:
        """Start the environment's global random generators again from `seed`."""
        self.generators = GlobalGenerators(seed)
        if Isolation._loaded is self:
            self.generators.load()

    def release(self) -> None:
        """Return the global random generators to the program. The environment is not called any more."""
        if Isolation._loaded is self and Isolation._program is not None:
            Isolation._program.load()
            Isolation._loaded = Isolation._program = None

    def _load(self) -> None:
        loaded = Isolation._loaded
        if loaded is not self:
            if loaded is None:
                Isolation._program = GlobalGenerators(0)
                Isolation._program.save()
            else:
                loaded.generators.save()
            self.generators.load()
            Isolation._loaded = self
        if self._gl is not None:
            self._gl.make_current()

    def _enter(self) -> None:
        self._program_directory = _directory()
        self._streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr
        if self._directory is not None:
            _change_directory(self._directory)


def run_once(call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Return `call(*args, **kwargs)`, which runs code of a user outside of an environment, such as an import."""
    isolation = Isolation(0)
    try:
        return isolation.run(True, call, *args, **kwargs)
    finally:
        isolation.release()


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (twice as fast as Path.cwd)
    except OSError:  # it was removed
        return None


def _change_directory(directory: str) -> None:
    with contextlib.suppress(OSError):  # it was removed, and nothing can be done about that
        os.chdir(directory)


class _ProcessState:
    """Handlers, filters and options of libraries, as they are now. With `thorough` also those that are slow to read."""

    def __init__(self, thorough: bool) -> None:
        in_main = threading.get_ident() == threading.main_thread().ident  # other threads cannot set handlers
        self._handlers = list(map(_signal.getsignal, _NUMBERS)) if in_main else None
        self._filters, self._listed = warnings.filters, list(warnings.filters)
        self._torch = _torch_state()
        self._thorough = thorough
        if thorough:
            self._numpy_errors, self._disabled = np.geterr(), logging.root.manager.disable
            self._device_and_threads = _torch_device_and_threads()

    def restore(self) -> None:
        """Restore what differs."""
        handlers = self._handlers
        if handlers is not None and (self._thorough or list(map(_signal.getsignal, _NUMBERS)) != handlers):
            for number, handler in zip(_NUMBERS, handlers, strict=True):
                _restore_handler(number, handler)
        if warnings.filters is not self._filters or warnings.filters != self._listed:
            warnings.simplefilter("ignore", append=True)  # forget which warnings were shown under other filters
            warnings.filters[:] = self._listed  # type: ignore[index]
        _restore_torch(self._torch)
        if self._thorough:
            np.seterr(**self._numpy_errors)  # before numpy 2 it is not a context variable
            logging.disable(self._disabled)
            _enable_loggers()
            _restore_torch_device_and_threads(self._device_and_threads)


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


_UNTOUCHED = (True, "float32", False)
"""State of torch when it is imported, in the order of `_torch_state`."""


def _torch_state() -> tuple[Any, ...]:
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "_GLOBAL_DEVICE_CONTEXT"):  # not imported, or not completely
        return _UNTOUCHED
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()


def _restore_torch(before: tuple[Any, ...]) -> None:
    torch, now = sys.modules.get("torch"), _torch_state()
    if now == before or torch is None:
        return
    gradients, dtype, deterministic = before
    torch.set_grad_enabled(gradients)
    torch.set_default_dtype(torch.float32 if dtype == "float32" else dtype)
    torch.use_deterministic_algorithms(deterministic)


def _torch_device_and_threads() -> tuple[Any, int | None]:
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "_GLOBAL_DEVICE_CONTEXT"):
        return None, None
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None), torch.get_num_threads()


def _restore_torch_device_and_threads(before: tuple[Any, int | None]) -> None:
    torch, (device, threads), (device_now, threads_now) = sys.modules.get("torch"), before, _torch_device_and_threads()
    if torch is not None and device is not device_now:
        torch.set_default_device(None if device is None else device.device)
    if torch is not None and threads is not None and threads != threads_now:
        torch.set_num_threads(threads)
