"""The two sides of a pipelined step: the update thread, and everything else."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from seer_edge.training.session import Session


@dataclass(frozen=True)
class Sides:
    """The two sides of a pipelined step in milliseconds: CPU time of both threads, and wall time of the step.

    Means of the fastest tenth of the steps. In the others, the host did not have two free cores all the time.
    """

    learning: float  # the update thread
    acting: float  # environment and everything else
    step: float

    @property
    def pace(self) -> float:
        """Share of the speed that is possible where the slower side alone sets the pace."""
        return max(self.learning, self.acting) / self.step


def sides_of(session: "Session", times: int) -> Sides:
    """Measure `times` steps of a session with the pipeline."""
    return _sides(session.step, times)


def yardstick_of(sides: Sides, times: int) -> Sides:
    """Measure two threads that compute for as long as the sides do, share nothing, and meet at each step.

    Its pace is what this host gives two threads at the moment: less than 1 where it lacks two free cores.
    """
    with ThreadPoolExecutor(1) as pool:

        def step() -> None:
            update = pool.submit(_compute, sides.learning / 1e3)
            _compute(sides.acting / 1e3)
            update.result()

        return _sides(step, times)


def _compute(seconds: float) -> None:
    values = np.ones(100_000, np.float32)
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.sqrt(values, out=values)


def _sides(job: Callable[[], object], times: int) -> Sides:
    taken = []
    for _ in range(times):
        wall, all_threads, own = time.perf_counter(), time.process_time(), time.thread_time()
        job()
        acting = time.thread_time() - own
        taken.append((time.perf_counter() - wall, time.process_time() - all_threads - acting, acting))
    fastest = sorted(taken)[: -(-times // 10)]
    step, learning, acting = (1e3 * statistics.fmean(column) for column in zip(*fastest, strict=True))
    return Sides(learning, acting, step)
