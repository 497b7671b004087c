"""Runs the jobs of a sweep to their ends: which one comes next, and what became of each."""

import contextlib
import csv
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.errors import BadInputError
from seer_edge.runs.run_folder import RunFolder, is_run
from seer_edge.sweeps.engine import STOP_STATUSES, Engine, Running, Task
from seer_edge.sweeps.spec import Job
from seer_runtime import durable
from seer_runtime.durable.lock import FolderBusyError, FolderLock

LOG = logging.getLogger(__name__)
POLL_SECONDS = 0.5
RECORD = "sweep.json"
LOGS = "logs"
TAIL_BYTES = 8_192


@dataclass(frozen=True)
class Need:
    """What one job needs, from its plan."""

    rss_bytes: int
    threads: int
    total_timesteps: int


@dataclass
class Progress:
    """How far a sweep is."""

    steps: int
    total_steps: int
    running: int
    finished: int
    failed: int
    jobs: int


def record_jobs(folder: Path, jobs: Sequence[Job]) -> None:
    """Record the jobs in the sweep's folder. Raises BadInputError as `records_of` does."""
    path = folder / RECORD
    records = records_of(folder, jobs)
    try:
        durable.write_json(path, records)
    except OSError as error:
        raise _unusable(path, error) from error


def records_of(folder: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the records of the sweep's folder with those of `jobs`. A job that has not begun may have changed.

    Raises BadInputError if a job has begun with other settings, and for more jobs than the folder can record.
    """
    path = folder / RECORD
    try:
        known = {**durable.read_json(path)} if path.exists() else {}
        begun = _begun(folder, known)
        for job in jobs:
            if job.name not in known and os.path.lexists(folder / job.name):
                why = f"{RECORD} lacks it" if path.exists() else f"{RECORD} is missing"
                raise BadInputError(
                    f"{folder}: the settings of {job.name} are unknown, because {why}; put that file back, or name "
                    "another folder with -o"
                )
            now = job.record()
            if job.name in begun and known[job.name] != now:
                raise BadInputError(
                    f"{folder}: {job.name} was started with other settings ({_difference(known[job.name], now)}); "
                    "name another folder with -o, or another variant"
                )
            known[job.name] = now
    except (OSError, durable.CorruptFileError, AttributeError, LookupError, TypeError) as error:
        raise _unusable(path, error) from error
    try:
        durable.json_bytes(path, known)
    except ValueError as error:
        raise BadInputError(f"{path}: {error}; make several sweeps with fewer runs") from error
    return known


def _unusable(path: Path, error: Exception) -> BadInputError:
    return BadInputError(f"{path}: cannot be used ({error}); name another folder with -o")


def _begun(folder: Path, known: Mapping[str, Any]) -> set[str]:
    """Return the jobs whose runs exist, and those that these began from, even if their own runs were removed."""
    begun = set[str]()
    waiting = [name for name in known if os.path.lexists(folder / name)]
    while waiting:
        name = waiting.pop()
        if name in known and name not in begun:
            begun.add(name)
            waiting += [known[name].get(entry) for entry in ("parent", "source")]
    return begun


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first difference between two records of a job. Raises LookupError or TypeError for other content."""
    old, new = ({**record, **record["options"]} for record in (before, now))
    name = next(name for name in {**new, **old} if name != "options" and old.get(name) != new.get(name))
    return f"{name} was {old.get(name)}, now {new.get(name)}"


def check_forks(folder: Path, jobs: Sequence[Job]) -> None:
    """Raise BadInputError if a fork has not begun, and its parent has passed its step without keeping a checkpoint."""
    for job in jobs:
        if job.parent is None or job.at is None or os.path.lexists(folder / job.name):
            continue
        steps = durable.checkpoint_steps(RunFolder(folder / job.parent.name).checkpoints)
        if steps and job.at not in steps and job.at < steps[-1]:
            raise BadInputError(
                f"{folder}: {job.name} forks at {job.at}, but {job.parent.name} has passed that step and has only the "
                f"checkpoints of {', '.join(map(str, steps))}; fork at one of these, or name another folder with -o"
            )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create and lock the sweep's folder. Raises BadInputError if another sweep runs in it."""
    try:
        durable.make_folder(folder / LOGS)
        lock = FolderLock(folder)
    except FolderBusyError as error:
        raise BadInputError(f"{error}; wait until that sweep ends, or stop it") from error
    except OSError as error:
        raise BadInputError(f"-o {folder}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        lock.release()


class Runner:
    """Brings each job to its end. A finished run is not repeated, an interrupted one is resumed.

    Attributes:
        failures: by job, why it did not finish, although the sweep continued.
        interrupted: the jobs among them that a signal stopped.

    """

    def __init__(self, folder: Path, jobs: Sequence[Job], needs: Mapping[str, Need], engine: Engine) -> None:
        self.folder, self._jobs, self._needs, self._engine = folder, list(jobs), needs, engine
        self._plugins: tuple[str, ...] = ()
        self._waiting = list(jobs)
        self._running: dict[str, Running] = {}
        self._outliving: dict[str, Task] = {}  # trained by a process of an earlier call that was killed
        self._finished: set[str] = set()
        self._is_stopping = False
        self.failures: dict[str, str] = {}
        self.interrupted: set[str] = set()

    def with_plugins(self, modules: Sequence[str]) -> "Runner":
        """Load these plugins in each job."""
        self._plugins = tuple(word for module in modules for word in ("--plugin", module))
        return self

    def run(self, stop: Callable[[], bool], show: Callable[[Progress], object] = lambda progress: None) -> None:
        """Run all jobs, or stop those that run once `stop` is true. `show` is called a few times a second."""
        try:
            while (self._waiting or self._running) and not stop():
                self._collect()
                self._start_waiting()
                show(self.progress())
                time.sleep(POLL_SECONDS)
        finally:
            self._is_stopping = True
            for running in self._running.values():
                running.stop()
            while self._running:
                self._collect()
                time.sleep(POLL_SECONDS)
        show(self.progress())

    def progress(self) -> Progress:
        """Return how far the sweep is."""
        steps = [min(steps_of(self.folder / job.name), self._needs[job.name].total_timesteps) for job in self._jobs]
        total = sum(self._needs[job.name].total_timesteps for job in self._jobs)
        done, failed, running = len(self._finished), len(self.failures), len(self._running) + len(self._outliving)
        return Progress(sum(steps), total, running, done, failed, len(self._jobs))

    def _collect(self) -> None:
        for name, running in list(self._running.items()):
            status = running.status()
            if status is None:
                continue
            del self._running[name]
            if status in STOP_STATUSES:
                self._interrupt(name, STOP_STATUSES[status])
            elif status != 0:
                self._fail(name, f"ended with status {status}; see {running.task.log}")
            elif RunFolder(self.folder / name).is_finished:
                self._finish(name)
            else:  # a fork was written and is not trained yet
                self._waiting.insert(0, next(job for job in self._jobs if job.name == name))

    def _finish(self, name: str) -> None:
        self._finished.add(name)
        LOG.info("finished: %s", name)

    def _interrupt(self, name: str, signal_name: str) -> None:
        if self._is_stopping:
            LOG.info("interrupted: %s", name)
            return
        self.interrupted.add(name)
        self._fail(name, f"interrupted by {signal_name}; repeat the command to resume it")

    def _fail(self, name: str, reason: str) -> None:
        self.failures[name] = reason
        LOG.warning("%s: %s", name, reason)

    def _find_outliving(self) -> None:
        """Find the waiting jobs that a process of an earlier call still trains. They count as running."""
        before, self._outliving = self._outliving, {}
        for job in self._waiting:
            if is_busy(self.folder / job.name):
                need = self._needs[job.name]
                self._outliving[job.name] = Task([], self._log_of(job), need.rss_bytes, need.threads)
                if job.name not in before:
                    LOG.info("%s: trained by a process of an earlier call; waiting for it", job.name)

    def _start_waiting(self) -> None:
        self._find_outliving()
        for job in list(self._waiting):
            if RunFolder(self.folder / job.name).is_finished:
                self._finish(job.name)
            elif failed := [needed.name for needed in job.needed if needed.name in self.failures]:
                became = "was interrupted" if failed[0] in self.interrupted else "failed"
                self._fail(job.name, f"its {'source' if job.parent is None else 'parent'} {failed[0]} {became}")
            elif not {needed.name for needed in job.needed} <= self._finished or not self._begin(job):
                continue
            self._waiting.remove(job)

    def _begin(self, job: Job) -> bool:
        """Start the next command of a job, if there is room and no process of an earlier call trains it."""
        path, need = self.folder / job.name, self._needs[job.name]
        if job.name in self._outliving:
            return False
        resumes = is_run(path)
        newest = max(durable.checkpoint_steps(RunFolder(path).checkpoints), default=0)
        words = job.words_to_resume(self.folder, newest) if resumes else job.words(self.folder)
        task = Task([*self._plugins, *words], self._log_of(job), need.rss_bytes, need.threads)
        others = [*(running.task for running in self._running.values()), *self._outliving.values()]
        if not self._engine.has_room(task, others):
            return False
        LOG.info("%s: %s", words[0], job.name)
        try:
            self._running[job.name] = self._engine.start(task)
        except OSError as error:
            self._fail(job.name, f"cannot be started ({error}); repeat the command to try again")
        return True

    def _log_of(self, job: Job) -> Path:
        return self.folder / LOGS / f"{job.name}.log"


def is_busy(path: Path) -> bool:
    """Return whether a process works on the run: one that outlived a sweep that was killed."""
    if not path.is_dir():
        return False
    try:
        FolderLock(path).release()
    except FolderBusyError:
        return True
    return False


def steps_of(run: Path) -> int:
    """Return the steps in the last row of a run's `progress.csv`; 0 if there is none."""
    try:
        with RunFolder(run).progress.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    cell = next(iter(next(csv.reader([lines[-1]]), [])), "") if lines else ""
    return int(cell) if cell.isdigit() else 0


def summary_of(run: Path) -> dict[str, Any]:
    """Return the `summary.json` of a run; empty if there is none."""
    try:
        return dict(durable.read_json(RunFolder(run).summary))
    except (OSError, durable.CorruptFileError, TypeError, ValueError):
        return {}
