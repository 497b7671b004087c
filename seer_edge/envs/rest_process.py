"""A small process that brings the environment to rest if this process is killed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence

from seer_edge.envs import rest_guard
from seer_edge.envs.rest_guard import READY, SHARED_BYTES, SharedLock
from seer_edge.errors import EnvironmentFailedError

END_SECONDS = 5.0


class RestProcess:
    """A process that runs `command` if the thread that has made it ends without `end(in_order=True)`.

    Return once it waits. It has its own session, so Ctrl-C does not reach it. Raises EnvironmentFailedError where
    it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        program = [sys.executable, "-I", "-S", rest_guard.__file__]
        try:
            memory = os.memfd_create("seer-edge")
            try:
                os.ftruncate(memory, SHARED_BYTES)
                self._lock = SharedLock(memory)
                self._lock.create()
                self._process = subprocess.Popen(
                    [*program, str(memory), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    pass_fds=(memory,),
                    start_new_session=True,
                )
            finally:
                os.close(memory)
        except (AttributeError, OSError) as error:
            raise EnvironmentFailedError(f"rest_command: no process can wait to run it ({error})") from error
        assert self._process.stdout is not None
        with self._process.stdout as output:
            if output.read(len(READY)) != READY:
                raise EnvironmentFailedError("rest_command: the process that waits to run it has ended at once")

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def end(self, *, in_order: bool) -> None:
        """End the process. If the run did not end `in_order`, it runs the command first."""
        self._lock.release(in_order=in_order)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
