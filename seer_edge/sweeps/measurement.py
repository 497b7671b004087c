"""What the tables of two kinds of short runs show: the seconds of each part of a run, and the lengths of episodes."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seer_edge.config.plan import BytePlan
from seer_edge.runs.run_folder import RunFolder
from seer_edge.sweeps.cost import Episodes, Rates

INTERVAL_FLOPS, INTERVAL_STEPS_MIN, INTERVAL_STEPS_MAX = 18e9, 2, 60
"""Multiply-adds of the updates in one log interval of a learning run, and the bounds of its steps."""
WARM_UP_STEPS, WARM_UP_INTERVALS = 60, 4
"""Steps before the first update, at least. Only the second half is counted."""
PIXEL_INTERVALS, LATENT_INTERVALS_MAX = 4, 8
"""Log intervals of each phase. The first one is not counted, because it makes buffers and kernels."""
STEP, ELAPSED, EVALUATION_STEPS = "time/total_timesteps", "time/time_elapsed", "eval/mean_ep_length"

Rows = Sequence[Mapping[str, str]]
"""Rows of a `progress.csv`."""


@dataclass(frozen=True)
class LearningSteps:
    """Steps of a short run that learns: those of a log interval, before the first update, and of each phase."""

    interval: int
    warm_up: int
    pixel: int
    latent: int

    @classmethod
    def of(cls, plan: BytePlan) -> "LearningSteps":
        """Choose them by the multiply-adds of an update, so that runs of all agents take a few seconds."""
        config, flops = plan.config, plan.flops
        learns_pixels, freezes = config.source is None, config.freeze_at is not None
        update = flops.before_freeze if learns_pixels else flops.after_freeze
        share = config.total_timesteps // (2 * PIXEL_INTERVALS)
        wanted = min(int(INTERVAL_FLOPS / update), share, INTERVAL_STEPS_MAX)
        interval = max(INTERVAL_STEPS_MIN, wanted - wanted % 2)  # SAC updates its actor every other step
        warm_up = max(WARM_UP_STEPS, WARM_UP_INTERVALS * interval, config.settings.n_step + config.settings.stack + 1)
        faster = round(PIXEL_INTERVALS * flops.before_freeze / flops.after_freeze)
        latent_intervals = min(LATENT_INTERVALS_MAX, max(PIXEL_INTERVALS, faster))
        return cls(
            interval=interval,
            warm_up=-(-warm_up // interval) * interval,
            pixel=PIXEL_INTERVALS * interval if learns_pixels else 0,
            latent=latent_intervals * interval if freezes else 0,
        )

    @property
    def total(self) -> int:
        """All steps."""
        return self.warm_up + self.pixel + self.latent


def rates_of(rows: Rows, took: float, steps: LearningSteps) -> Rates:
    """Return what the parts of a run take. `rows` are those of a run that learned for `steps` and took `took` seconds.

    The last row has an evaluation, unless the run has none.
    """
    at = {int(row[STEP]): float(row[ELAPSED]) for row in rows}
    each, total = steps.interval, steps.total

    def step_seconds(begin: int, end: int) -> float:
        return max(0.0, at[end] - at[begin]) / (end - begin)

    def excess(end: int, rate: float) -> float:
        """Return what the interval up to `end` took longer than its steps."""
        return max(0.0, at[end] - at[end - each] - each * rate)

    start, frozen_at = took - at[total], steps.warm_up + steps.pixel
    half = steps.warm_up // each // 2 * each
    acting = step_seconds(half, steps.warm_up)
    start += max(0.0, at[half] - half * acting)
    pixel = latent = freeze = 0.0
    if steps.pixel:
        pixel = step_seconds(steps.warm_up + each, frozen_at - each)
        start += excess(steps.warm_up + each, pixel)
        freeze = excess(frozen_at, pixel) if steps.latent else 0.0
    if steps.latent:
        latent = step_seconds(frozen_at + each, total - each)
        start += excess(frozen_at + each, latent)
    length = float(rows[-1][EVALUATION_STEPS] or 0)
    evaluation = excess(total, latent if steps.latent else pixel) if length else 0.0
    step = min(acting, evaluation / length) if length else 0.0
    return Rates(max(0.0, start), acting, pixel, latent, freeze, evaluation - length * step, step)


def rows_of(run: RunFolder) -> Rows:
    """Return the rows of the progress of a run."""
    with run.progress.open(newline="") as file:
        return list(csv.DictReader(file))


def episodes_of(run: RunFolder) -> Episodes:
    """Return the lengths of the episodes of a run, which learned nothing."""
    with run.episodes.open(newline="") as file:
        ended = [(int(row["step"]), int(row["length"])) for row in csv.DictReader(file)]
    last = int(rows_of(run)[-1][STEP])
    return Episodes(tuple(length for _, length in ended), last - (ended[-1][0] if ended else 0))


def play_seconds(rows: Rows) -> float:
    """Return the seconds of a step of a run that learned nothing."""
    first, last = rows[0], rows[-1]
    steps, seconds = int(last[STEP]) - int(first[STEP]), float(last[ELAPSED]) - float(first[ELAPSED])
    return seconds / steps if steps else float(last[ELAPSED]) / int(last[STEP])
