"""The clock of an environment in real time: one tick for each control period."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seer_edge.envs.durations import Durations

MISSED_SHARE_MAX = 0.05
"""Share of missed ticks at which the rate is too high for the environment and the agent."""
_running: "Ticks | None" = None


class Ticks:
    """Ticks at a fixed period. A tick that is missed is skipped, so later ones stay on the grid.

    Attributes:
        period_seconds: time between two ticks.
        lateness: how long after its time each tick came, in this log interval.
        missed: ticks of this log interval that were skipped, because a step took longer than a period.
        at: time of the last tick, by `time.monotonic`.

    """

    def __init__(
        self,
        period_seconds: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.period_seconds = period_seconds
        self.lateness, self.missed = Durations(), 0
        self.waited = False
        self._now, self._sleep = now, sleep
        self.at = self._stepped_at = now()
        self._due = self.at + period_seconds

    def restart(self) -> None:
        """Let the next tick come one period from now, after a reset. The last step may have missed some before it."""
        self._skip_until(self._stepped_at)
        self.at = self._now()
        self._due = self.at + self.period_seconds

    def wait(self) -> None:
        """Wait for the next tick. Return at once if its time has come."""
        left = self._due - self._now()
        if left > 0:
            self._sleep(left)
        self.at = self._now()
        self.lateness.add(self.at - self._due)
        self._skip_until(self.at)
        self.waited = True

    def _skip_until(self, seconds: float) -> None:
        """Count the tick that is due as served, and those between it and `seconds` as missed."""
        self._due += self.period_seconds
        while self._due <= seconds:
            self._due += self.period_seconds
            self.missed += 1

    def follow(self) -> None:
        """Count a tick that the environment itself set, late if more than a period has passed since the last one."""
        self.at = self._now()
        self.lateness.add(max(0.0, self.at - self._due))
        self._due = self.at + self.period_seconds
        self.waited = True

    @contextmanager
    def one(self) -> Iterator[None]:
        """Context manager around a step: wait for one tick, unless the step called `next_tick` itself."""
        global _running
        self.waited, _running = False, self
        try:
            yield
        finally:
            _running = None
        if not self.waited:
            self.wait()
        self._stepped_at = self._now()

    def drain(self) -> tuple[Durations, int]:
        """Return lateness and missed ticks of the interval, and begin the next one."""
        drained = self.lateness, self.missed
        self.lateness, self.missed = Durations(), 0
        return drained


def next_tick() -> bool:
    """Wait for the next control tick of --hz. Call it in `step`, after sending the action and before observing.

    Return whether there is such a clock. Without --hz it returns at once.
    """
    if _running is not None and not _running.waited:
        _running.wait()
    return _running is not None


def tick_now() -> None:
    """Say that a tick is now. An environment that keeps its own time calls this in `step`, before observing."""
    if _running is not None and not _running.waited:
        _running.follow()
