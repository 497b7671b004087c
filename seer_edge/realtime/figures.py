"""The figures of a run in real time: lateness, age of observations, updates a step."""

import logging
import time
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.envs.durations import Durations
from seer_edge.envs.ticks import MISSED_SHARE_MAX, Ticks
from seer_edge.realtime.feed import Feed
from seer_edge.realtime.pilot import Pilot

LOG = logging.getLogger(__name__)
GRACE_STEPS = 300
"""Steps after learning starts before a warning of too few updates."""
LATE_SECONDS = 0.005


class Totals:
    """Figures of this process since its start, and those of the running log interval.

    Attributes:
        lateness: of all ticks.
        age: from each observation to its action.
        missed: ticks that were skipped.
        updates: all updates.
        steps: stored steps since learning started.
        dropped: steps that were not stored.

    """

    def __init__(self) -> None:
        self.lateness, self.age = Durations(), Durations()
        self.missed = self.updates = self.steps = self.dropped = 0
        self._updates = self._steps = 0
        self._since, self._rate = time.monotonic(), 0.0  # of the last tick, and ticks a second up to it
        self._warned: set[str] = set()

    def learned(self, updates: int, *, learning: bool) -> None:
        """Count one stored step and the updates made after it. `learning` says whether learning has started."""
        self._updates += updates
        self._steps += 1
        self.updates += updates
        self.steps += learning

    def end_interval(self, config: TrainConfig, clock: Ticks, pilot: Pilot, feed: Feed) -> dict[str, float]:
        """Return the figures of the interval by column, and begin the next one."""
        lateness, missed = clock.drain()
        at, age = clock.at, pilot.drain()
        ticks, seconds = lateness.count, at - self._since
        if ticks and seconds > 0:
            self._rate, self._since = ticks / seconds, at
        dropped, self.dropped = feed.dropped - self.dropped, feed.dropped
        updates, steps = self._updates, max(self._steps, 1)
        self._updates = self._steps = 0
        self.lateness.merge(lateness)
        self.age.merge(age)
        self.missed += missed
        if ticks and missed > MISSED_SHARE_MAX * (ticks + missed):
            self._warn(
                "rate",
                f"the environment and the agent hold {self._rate:.1f} ticks a second, not "
                f"{1 / clock.period_seconds:g}: {missed:,} ticks of {ticks + missed:,} were missed; "
                "give a lower --hz",
            )
        least = config.min_updates_per_step
        if self.steps >= GRACE_STEPS and self.updates < least * self.steps:
            self._warn(
                "updates",
                f"{self.updates / self.steps:.2f} updates a step, fewer than --min-updates-per-step {least:g}; "
                "give a lower --hz, or a smaller network",
            )
        if dropped:
            self._warn("dropped", f"{dropped:,} steps were not stored, because the learner was busy for too long")
        return {
            "time/fps": self._rate,  # not that of the steps that are stored, which may have waited
            "control/ticks": ticks,
            "control/missed": missed,
            "control/late_p50_ms": 1e3 * lateness.quantile(0.5),
            "control/late_p99_ms": 1e3 * lateness.quantile(0.99),
            "control/late_worst_ms": 1e3 * lateness.worst,
            "control/age_p99_ms": 1e3 * age.quantile(0.99),
            "control/updates_per_step": updates / steps,
            "control/dropped": dropped,
        }

    def _warn(self, what: str, line: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            LOG.warning(line)

    def to_json(self, config: TrainConfig) -> dict[str, Any]:
        """Return the `real_time` entry of `summary.json`: of this process, up to the last log interval."""

        def milliseconds(durations: Durations) -> dict[str, float]:
            quantiles = {"p50": 0.5, "p99": 0.99}
            own = {name: round(1e3 * durations.quantile(share), 3) for name, share in quantiles.items()}
            return {**own, "worst": round(1e3 * durations.worst, 3)}

        return {
            "hz": config.hz,
            "ticks": self.lateness.count,
            "missed": self.missed,
            "later_than_5_ms": self.lateness.above(LATE_SECONDS),
            "lateness_ms": milliseconds(self.lateness),
            "age_of_observation_ms": milliseconds(self.age),
            "updates_per_step": round(self.updates / self.steps, 4) if self.steps else None,
            "dropped_steps": self.dropped,
        }
