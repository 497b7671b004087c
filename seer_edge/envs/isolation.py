"""Run the code of an environment without letting it change the process around it.

An environment is a guest in the process. It may install signal handlers, change the working directory, print, or set
options of numpy and torch. `Isolation.run` calls it and restores afterwards what the rest of the program needs.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

from seer_edge.envs.gl_context import GlContext
from seer_edge.envs.global_generators import GlobalGenerators
from seer_edge.envs.process_state import ProcessState

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_inside: ContextVar[bool] = ContextVar("_inside", default=False)
_process = threading.Lock()
"""Held while an environment runs. Of several threads only the first isolates its environment from the process."""


class Isolation:
    """Runs the calls of one environment, whose global random generators start from `seed`.

    Restored after each call: the working directory, `sys.stdout` and `sys.stderr`, and what `ProcessState` holds. The
    environment keeps a working directory, numpy error state, context variables and random generators, which
    it finds again in its next call. So it does its OpenGL context, if another environment has made another one current.
    What it prints goes to stderr.
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
            before = ProcessState(thorough)
            try:
                self._enter()
                return self._context.run(call, *args, **kwargs)
            finally:
                self.leave()
                before.restore()
        finally:
            _process.release()

    def run_beside(self, call: Callable[[], Result]) -> Result:
        """Return `call()`, which another thread makes while this environment may be inside a call. Restore nothing."""
        return self._context.copy().run(call)

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


class NoIsolation(Isolation):
    """Calls a program that steps its own loop (`seer_edge.Learner`): it is no guest in its own process."""

    def run(
        self, thorough: bool, call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Return `call(*args, **kwargs)`."""
        return call(*args, **kwargs)


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
