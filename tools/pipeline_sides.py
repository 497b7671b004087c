"""The two sides of a pipelined step: the update thread, and everything else."""

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    taken = []
    for _ in range(times):
        wall, all_threads, own = time.perf_counter(), time.process_time(), time.thread_time()
        session.step()
        acting = time.thread_time() - own
        taken.append((time.perf_counter() - wall, time.process_time() - all_threads - acting, acting))
    fastest = sorted(taken)[: -(-times // 10)]
    step, learning, acting = (1e3 * statistics.fmean(column) for column in zip(*fastest, strict=True))
    return Sides(learning, acting, step)
