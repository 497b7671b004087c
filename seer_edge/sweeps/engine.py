"""Where the jobs of a sweep run. `LocalEngine` runs them as processes of this machine, `ray_engine.py` on a cluster."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seer_runtime.system.user_modules import module_places

NICE = 19
STOP_STATUSES = {
    status: number.name
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for status in (128 + number, -number)
}
"""Exit statuses of a command that a signal asked to end, and the signal. Negative before it could answer."""


@dataclass(frozen=True)
class Task:
    """One command of a job: words after `seer-edge`, the file for its output, and what it needs."""

    words: Sequence[str]
    log: Path
    rss_bytes: int
    threads: int


class Running(Protocol):
    """A command that was started."""

    task: Task

    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and to end."""


class Engine(Protocol):
    """Starts commands."""

    def slots(self, threads: int, rss_bytes: int) -> int:
        """Return how many tasks of so many threads and bytes run at a time."""

    def has_room(self, task: Task, running: Collection[Task]) -> bool:
        """Return whether `task` may run beside `running`."""

    def start(self, task: Task) -> Running:
        """Start a command. Raises OSError."""

    def scratch(self, folder: Path) -> Path | None:
        """Return where short runs of the sweep in `folder` may write; None for the system's temporary folder."""

    def close(self) -> None:
        """Free what the engine holds. No command runs any more."""


def start_command(
    words: Sequence[str], log: Path, variables: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start `seer-edge` with `words` in `folder`, with the lowest priority and its output behind `log`.

    It has its own session, so that Ctrl-C in a terminal reaches the sweep only. Raises OSError.
    """
    with log.open("ab") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "seer_edge", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **variables},
        )
    os.setpriority(os.PRIO_PROCESS, child.pid, NICE)
    # Linux shares the processor between sessions first, by a value of each session (sched(7), "autogroup").
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.pid}/autogroup").write_text(f"{NICE}")
    return child


class LocalProcess:
    """A process of this machine."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._child = start_command(task.words, task.log, module_places())

    def status(self) -> int | None:
        """Return the exit status, negative for a signal that killed it, or None while it runs."""
        return self._child.poll()

    def stop(self) -> None:
        """Send SIGTERM."""
        self._child.send_signal(signal.SIGTERM)


class LocalEngine:
    """A pool of processes: at most `jobs` at a time, or one for each core, within `memory_bytes` of planned RSS."""

    def __init__(self, jobs: int | None, memory_bytes: int) -> None:
        self._jobs = jobs
        self._cores = len(os.sched_getaffinity(0))
        self._memory_bytes = memory_bytes

    def slots(self, threads: int, rss_bytes: int) -> int:
        """Return how many tasks of so many threads and bytes run at a time."""
        count = max(1, self._cores // threads) if self._jobs is None else self._jobs
        return max(1, min(count, self._memory_bytes // max(1, rss_bytes)))

    def has_room(self, task: Task, running: Collection[Task]) -> bool:
        """Return whether cores and memory suffice. A task that needs more than there is runs alone."""
        if not running:
            return True
        everything = [*running, task]
        if sum(one.rss_bytes for one in everything) > self._memory_bytes:
            return False
        if self._jobs is not None:
            return len(everything) <= self._jobs
        return sum(one.threads for one in everything) <= self._cores

    def start(self, task: Task) -> LocalProcess:
        """Start a process with the lowest priority. Raises OSError."""
        return LocalProcess(task)

    def scratch(self, folder: Path) -> Path | None:
        """Return None: any temporary folder will do."""

    def close(self) -> None:
        """Do nothing."""
