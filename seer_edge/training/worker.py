"""A thread beside the one that steps the environment, which does one job at a time."""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from seer_runtime.system.process import start_thread

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """Jobs are begun and waited for in turns, so what is done does not depend on timing.

    The thread begins with the first job and ends with the process. Raises MemoryError where there is none for it.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], Result]] = SimpleQueue()
        self._ends: SimpleQueue[Result | BaseException] = SimpleQueue()
        self._started = self.busy = False

    def begin(self, job: Callable[[], Result]) -> None:
        """Let the thread do `job`; there must be none that was not waited for."""
        if self.busy:
            raise RuntimeError("a job is being done already")
        if not self._started:
            start_thread(self._run)
            self._started = True
        self.busy = True
        self._jobs.put(job)

    def wait(self) -> Result:
        """What the job begun last gave. Raises what it raised."""
        end = self._ends.get()
        self.busy = False
        if isinstance(end, BaseException):
            raise end
        return end

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                end: Result | BaseException = job()
            except BaseException as error:
                end = error
            del job  # and what it holds, while the next one is waited for
            self._ends.put(end)
            del end
