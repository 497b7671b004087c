"""The worker thread: results and errors of its jobs. `tests/tools/test_workerbench.py` has jobs out of memory."""

import threading

import pytest

from seer_edge.training.worker import WorkerThread

pytestmark = pytest.mark.integration


def test_the_result_of_a_job_comes_from_another_thread() -> None:
    worker: WorkerThread[int] = WorkerThread()
    threads = set()
    for _ in range(3):
        worker.start(threading.get_ident)
        threads.add(worker.result())
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("error", [ValueError("no batch"), SystemExit(3)])
def test_the_exception_of_a_job_is_raised_to_the_caller(error: BaseException) -> None:
    worker: WorkerThread[None] = WorkerThread()

    def fail() -> None:
        raise error

    worker.start(fail)
    with pytest.raises(type(error)) as raised:
        worker.result()
    assert raised.value is error
    worker.start(lambda: None)
    assert worker.result() is None


def test_a_second_job_waits_for_the_result_of_the_first_to_be_fetched() -> None:
    worker: WorkerThread[int] = WorkerThread()
    worker.start(lambda: 1)
    with pytest.raises(RuntimeError, match="the worker thread is busy"):
        worker.start(lambda: 2)
    assert worker.result() == 1
