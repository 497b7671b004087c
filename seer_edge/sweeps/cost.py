"""The cost of a sweep in hours on this machine, from the speeds that `calibration.py` measures."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seer_edge.config.plan import BytePlan
from seer_edge.sweeps.spec import Job

CHECKPOINT_BYTES_A_SECOND = 200e6
"""Assumed speed of the disk. A checkpoint is a small part of the steps between two of them."""

LENGTH_UNKNOWN = 1_000
"""Assumed steps of an episode, at least, if none has been seen to end."""

Kind = tuple[str, str]
"""Environment and variant: jobs of one kind differ in their seeds only."""


def kind_of(job: Job) -> Kind:
    """Return the kind of a job."""
    return job.env, job.variant


def first_step(job: Job, plans: Mapping[Kind, BytePlan]) -> int:
    """Return the step at which a job begins: 0, or that of its parent."""
    if job.parent is None:
        return 0
    return plans[kind_of(job.parent)].config.total_timesteps if job.at is None else job.at


@dataclass(frozen=True)
class Episodes:
    """Lengths in steps of some episodes with random actions.

    Attributes:
        lengths: those of the episodes that ended.
        unfinished: steps of the episode that did not end.

    """

    lengths: tuple[int, ...]
    unfinished: int = 0

    def mean(self, limit: int) -> float:
        """Return the mean length of an episode that is cut off after `limit` steps.

        If none has ended, it is twice the steps of the unfinished one, and at least `LENGTH_UNKNOWN`.
        """
        if not self.lengths:
            return float(min(limit, max(LENGTH_UNKNOWN, 2 * self.unfinished)))
        lengths = [min(length, limit) for length in self.lengths]
        if self.unfinished >= max(lengths):
            lengths.append(min(self.unfinished, limit))
        return statistics.fmean(lengths)

    def describe(self, limit: int) -> str:
        """Return as text what an evaluation episode of at most `limit` steps is taken to be."""
        seen = f"{len(self.lengths)} with random actions"
        if not self.lengths:
            seen = f"none with random actions ended within {self.unfinished:,}"
        elif len(set(self.lengths)) > 1:
            seen += f" ({min(self.lengths):,} to {max(self.lengths):,})"
        longest = self.longest(limit)
        most = f", at most {longest:,}" if longest > self.mean(limit) else ""
        return f"an evaluation episode of about {self.mean(limit):,.0f} steps{most}; measured: {seen}"

    def longest(self, limit: int) -> int:
        """Return the longest possible length. If several episodes were equally long, the environment limits them."""
        if len(self.lengths) > 1 and set(self.lengths) == {max(self.lengths)} and self.unfinished <= self.lengths[0]:
            return min(self.lengths[0], limit)
        return limit


@dataclass(frozen=True)
class Rates:
    """Seconds that the parts of a run take."""

    start: float  # of a process, with its first and last checkpoint and the first update of each phase
    acting: float  # a step without an update
    pixel: float  # a step before the freeze
    latent: float  # a step after it
    freeze: float  # the freeze, without the conversion of rows
    evaluation: float  # an evaluation without its steps
    evaluation_step: float

    def shifted(self, seconds: float) -> "Rates":
        """Return the rates in an environment whose steps take so much longer."""
        steps = ("acting", "pixel", "latent", "evaluation_step")
        return dataclasses.replace(self, **{name: max(0.0, getattr(self, name) + seconds) for name in steps})


@dataclass(frozen=True)
class Speed:
    """What one kind of job takes."""

    rates: Rates
    episodes: Episodes

    def seconds(self, plan: BytePlan, begin: int, *, longest: bool = False) -> float:
        """Return the estimate for a job that begins at the step `begin`.

        Evaluation episodes have the mean length of `episodes`, or with `longest` the longest possible one.
        """
        config, rates = plan.config, self.rates
        total, starts = config.total_timesteps, config.settings.learning_starts
        freeze = total if config.freeze_at is None else config.freeze_at
        acting = max(0, min(starts, total) - begin)
        pixel = max(0, min(freeze, total) - max(starts, begin))
        latent = max(0, total - max(freeze, starts, begin))
        seconds = rates.start + acting * rates.acting + pixel * rates.pixel + latent * rates.latent
        if config.freeze_at is not None and config.source is None and begin < freeze:
            encoded = plan.flops.conversion(freeze) / plan.flops.before_freeze
            seconds += rates.freeze + encoded * max(0.0, rates.pixel - rates.acting)
        seconds += _evaluations(plan, begin) * self._evaluation_seconds(plan, longest=longest)
        return seconds + _checkpoint_seconds(plan, begin, seconds)

    def _evaluation_seconds(self, plan: BytePlan, *, longest: bool) -> float:
        limit = plan.config.eval_limit_steps
        length = self.episodes.longest(limit) if longest else self.episodes.mean(limit)
        return self.rates.evaluation + plan.config.eval_episodes * length * self.rates.evaluation_step


def _evaluations(plan: BytePlan, begin: int) -> int:
    every, total = plan.config.eval_every, plan.config.total_timesteps
    return 0 if every is None else max(1, -(-(total - begin) // every))


def _checkpoint_seconds(plan: BytePlan, begin: int, seconds: float) -> float:
    """Return the time of the checkpoints of a run, whose other work takes `seconds`."""
    config = plan.config
    if config.checkpoint_every_steps is not None:
        count = (config.total_timesteps - begin) / config.checkpoint_every_steps
    else:
        count = seconds / (config.checkpoint_every_seconds or 1)
    filled = min(1.0, config.total_timesteps / max(1, plan.most_rows))
    return (1 + int(count)) * filled * plan.checkpoint_bytes / CHECKPOINT_BYTES_A_SECOND


def duration(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Return the seconds from the first start to the last end, with `slots` jobs at a time in the sweep's order."""
    ends: dict[str, float] = {}
    waiting, running, now = list(jobs), list[tuple[float, str]](), 0.0
    while waiting or running:
        ready = [job for job in waiting if all(needed.name in ends for needed in job.needed)]
        for job in ready[: slots - len(running)]:
            running.append((now + seconds[job.name], job.name))
            waiting.remove(job)
        now, name = min(running)
        running.remove((now, name))
        ends[name] = now
    return now
