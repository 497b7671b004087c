"""A small process that brings the environment to rest if this process is killed."""

import contextlib
import os
import subprocess
from collections.abc import Sequence

from seer_edge.errors import EnvironmentFailedError

SCRIPT = """
trap '' INT TERM HUP
read -r line && exit
for attempt in 1 2 3; do "$@" && exit; sleep 0.2; done
"""
"""A line says that the run ended in order. Without one, the end of the pipe says that its process is gone."""
END_SECONDS = 5.0


class RestProcess:
    """A shell of about 1 MB that waits on a pipe, and runs `command` if this process ends without `end(in_order=True)`.

    It has a session of its own, so Ctrl-C does not reach it. The kernel closes the pipe however this process ends.
    Raises EnvironmentFailedError where no process can be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        read, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT, "rest", *command],
                stdin=read,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._pipe)
            raise EnvironmentFailedError(f"rest_command: no process can be started ({error})", "rest") from error
        finally:
            os.close(read)
        _open.append(self)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def end(self, *, in_order: bool) -> None:
        """End the process. If the run did not end `in_order`, it runs the command first."""
        _open.remove(self)
        with contextlib.suppress(OSError):  # somebody has killed it
            if in_order:
                os.write(self._pipe, b"\n")
        os.close(self._pipe)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    def leave_child(self) -> None:
        """Close the pipe in a forked process, which may live longer than this one."""
        os.close(self._pipe)


_open: list[RestProcess] = []


def _in_child() -> None:
    while _open:
        _open.pop().leave_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
