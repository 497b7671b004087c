"""A worker thread that runs one job at a time."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from seer_runtime.system.process import start_thread

Result = TypeVar("Result")


class WorkerThread(Generic[Result]):
    """Runs one job at a time on a second thread.

    The caller starts a job and later asks for its result, so the outcome does not depend on timing. The thread starts
    with the first job and ends with the process.

    A job may run out of memory. Its error must still reach the caller, so nothing that the thread does after the job
    allocates memory: it stores the outcome and releases a lock. `concurrent.futures.ThreadPoolExecutor` allocates
    there, and its caller may then wait forever (docs/decisions/0014-worker-thread.md).
    """

    def __init__(self) -> None:
        self._job: Callable[[], Result] | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._started = self._busy = False
        # Held until there is a job, and until it is done. Each is released by the other thread.
        self._has_job, self._is_done = threading.Lock(), threading.Lock()
        self._has_job.acquire()
        self._is_done.acquire()

    def start(self, job: Callable[[], Result]) -> None:
        """Start `job` on the worker thread.

        Raises RuntimeError if the previous job's result was not fetched, MemoryError if the thread cannot start.
        """
        if self._busy:
            raise RuntimeError("the worker thread is busy; fetch the result of its job first")
        if not self._started:
            start_thread(self._run)
            self._started = True
        self._busy = True
        self._job = job
        self._has_job.release()

    def result(self) -> Result:
        """Wait for the job and return its result. Raises the job's exception."""
        self._is_done.acquire()
        self._busy = False
        error, result = self._error, self._result
        self._error = self._result = None
        if error is not None:
            raise error
        return cast(Result, result)

    def _run(self) -> None:
        while True:
            self._has_job.acquire()
            job, self._job = self._job, None
            assert job is not None
            try:
                self._result = job()
            except BaseException as error:
                self._error = error
            # Otherwise the thread would keep a batch alive while it waits for the next job.
            del job
            self._is_done.release()
