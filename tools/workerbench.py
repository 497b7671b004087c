"""Compare the worker thread of `--pipeline on` with the standard library's executor (decision 14).

    python tools/workerbench.py [--jobs N] [--trials N]

Two measurements: the time that handing over one small job adds, and what happens when a job runs out of memory. For the
second, each trial is a process that lowers its address space limit inside the job and then allocates until that fails.
The error must reach the waiting thread. A process that still waits after `HANG_SECONDS` counts as hung.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from commandline import Parser, count, progress, render, run_tool

Job = Callable[[], object]
Submit = Callable[[Job], object]

HANG_SECONDS = 5
ROUNDS = 5
BLOCK_BYTES = (2**24, 2**20, 2**16, 2**12)
"""Sizes of the blocks that use up the heap, largest first, so that this takes milliseconds."""
SPARE_BYTES = (1_024, 4_096, 16_384, 65_536)
"""Address space that a job has left; one value per trial in turn."""


def worker_thread() -> Submit:
    """Return a function that does a job on a `WorkerThread`."""
    from seer_edge.training.worker import WorkerThread

    worker: WorkerThread[object] = WorkerThread()

    def submit(job: Job) -> object:
        worker.start(job)
        return worker.result()

    return submit


def executor() -> Submit:
    """Return a function that does a job on a `ThreadPoolExecutor`."""
    pool = ThreadPoolExecutor(max_workers=1)
    return lambda job: pool.submit(job).result()


KINDS: dict[str, Callable[[], Submit]] = {"WorkerThread": worker_thread, "ThreadPoolExecutor": executor}


def microseconds(submit: Submit, jobs: int) -> list[float]:
    """Return the median time of a job that does nothing, for each of `ROUNDS` rounds."""
    medians = []
    for _ in range(ROUNDS):
        times = []
        for _ in range(jobs):
            begin = time.perf_counter()
            submit(int)
            times.append(1e6 * (time.perf_counter() - begin))
        medians.append(sorted(times)[jobs // 2])
    return medians


def run_out_of_memory(spare_bytes: int, seed: int) -> None:
    """Leave `spare_bytes` of address space, then allocate until that fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    held: list[object] = []
    for size_bytes in BLOCK_BYTES:
        with contextlib.suppress(MemoryError):
            while True:
                held = [held, bytes(size_bytes)]
    while True:
        held = [held, bytes(32 + seed)]


def trial(build: Callable[[], Submit], spare_bytes: int, seed: int) -> str:
    """Return what became of a job that runs out of memory in a process of its own: `raised`, `hung` or `other`."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        signal.alarm(HANG_SECONDS)
        status = 2
        try:
            submit = build()
            submit(int)
            submit(lambda: run_out_of_memory(spare_bytes, seed))
        except (MemoryError, SystemError):  # CPython reports some failed allocations as SystemError
            status = 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "hung" if os.WTERMSIG(status) == signal.SIGALRM else "other"
    return "raised" if os.WEXITSTATUS(status) == 1 else "other"


def measure(jobs: int, trials: int) -> int:
    """Print the table."""
    from seer_runtime.system.process import bound_heap

    bound_heap()  # as training does
    lines = []
    for name, build in KINDS.items():
        progress(f"{name}: {trials} jobs that run out of memory")
        ends = Counter(trial(build, SPARE_BYTES[seed % len(SPARE_BYTES)], seed) for seed in range(trials))
        medians = microseconds(build(), jobs)
        times = f"{min(medians):.0f} to {max(medians):.0f}"
        lines.append((name, times, *(str(ends[end]) for end in ("raised", "hung", "other"))))
    print(render(("", "us a job, median", "error raised", "hung", "other"), lines))
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="workerbench.py", description="Compare the worker thread with the standard executor.")
    parser.add_argument("--jobs", type=count, default=2_000, metavar="N", help="small jobs in each round (2000)")
    parser.add_argument("--trials", type=count, default=40, metavar="N", help="jobs that run out of memory (40)")

    def job() -> int:
        flags = parser.parse_args()
        return measure(flags.jobs, flags.trials)

    return run_tool("workerbench.py", job)


if __name__ == "__main__":
    sys.exit(main())
