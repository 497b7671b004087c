"""The results of the functions of the Python API."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.config.plan import BytePlan
from seer_edge.envs.exchange import ENV as OWN_LOOP
from seer_runtime.system.units import counted, format_size

SURE_FACTOR = 1.1
"""Factor between an estimate and its upper bound up to which the bound is not printed."""


@dataclass(frozen=True)
class RunResult:
    """A run that ended: finished, or stopped by a signal with a checkpoint written.

    Attributes:
        folder: the run's folder.
        summary: the content of `summary.json`.
        signal: number of the signal that stopped the run; None if it reached its last step.

    """

    folder: Path
    summary: Mapping[str, Any]
    signal: int | None = None

    @property
    def status(self) -> str:
        """State of the run: "finished" or "interrupted"."""
        return str(self.summary["status"])

    @property
    def timestep(self) -> int:
        """Agent steps made, over all parts of the run."""
        return int(self.summary["timesteps"])

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last evaluation; None if there was none yet."""
        evaluation = self.summary["eval"]
        return None if evaluation is None else float(evaluation["mean_return"])


@dataclass(frozen=True)
class ForkResult:
    """A new run that begins at a checkpoint of another.

    Attributes:
        folder: the folder of the new run.
        timestep: agent step at which it begins.
        plan: its plan, with the bytes in memory and on disk.

    """

    folder: Path
    timestep: int
    plan: BytePlan

    def render(self) -> str:
        """Return the result as one line of text."""
        origin = self.plan.config.origin or {}
        how = (
            f"seer-edge resume {self.folder}"
            if self.plan.config.env != OWN_LOOP
            else "seer_edge.Learner in your program"
        )
        return f"{self.folder}: fork of {origin['run']} at step {self.timestep:,}; train it with: {how}"


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep.

    Attributes:
        name: name of its folder in that of the sweep.
        status: "finished", "interrupted", "failed", "waiting", or "running" in a process of an earlier call.
        timestep: agent steps made.
        total_timesteps: agent steps of the whole run.
        mean_return: mean return of its last evaluation; None without one.
        rss_bytes: planned peak of its resident memory.
        seconds: estimated time that it still needs; None without `dry_run`.
        failure: why it failed or was interrupted, if that ended it before the sweep ended; else None.

    """

    name: str
    status: str
    timestep: int
    total_timesteps: int
    mean_return: float | None
    rss_bytes: int
    seconds: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class SweepEstimate:
    """The estimated time that a sweep still needs.

    Attributes:
        seconds: estimated duration.
        longest_seconds: duration if each evaluation episode is as long as it may be.
        slots: runs at a time.
        notes: the assumptions about evaluation episodes, one line for each environment.

    """

    seconds: float
    longest_seconds: float
    slots: int
    notes: tuple[str, ...]

    def render(self) -> str:
        """Return the duration as text."""
        text = f"about {self.seconds / 3600:.3f} hours with {self.slots} at a time"
        if self.longest_seconds < SURE_FACTOR * self.seconds:
            return text
        return (
            f"{text}, at most {self.longest_seconds / 3600:.3f} if all evaluation episodes are as long as they may be"
        )


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep, and how each ended.

    Attributes:
        folder: the folder of the sweep.
        jobs: its runs, parents before their forks.
        signal: number of the signal that stopped the sweep; None if it came to its end.
        estimate: the estimated duration; None unless it was asked for.

    """

    folder: Path
    jobs: tuple[SweepJob, ...]
    signal: int | None = None
    estimate: SweepEstimate | None = None

    @property
    def failed(self) -> tuple[SweepJob, ...]:
        """The runs that failed, or were interrupted while the sweep continued."""
        return tuple(job for job in self.jobs if job.failure is not None)

    @property
    def hours(self) -> float | None:
        """Estimated hours that the sweep still needs; None without an estimate."""
        return None if self.estimate is None else self.estimate.seconds / 3600

    def render(self) -> str:
        """Return the result as a table, with the failures below."""
        width = max(len(job.name) for job in self.jobs)
        lines = []
        for job in self.jobs:
            steps = f"{job.timestep:,} of {job.total_timesteps:,} steps"
            shown = "-" if job.mean_return is None else f"{job.mean_return:.1f}"
            cost = "" if job.seconds is None else f"  {job.seconds / 3600:.3f} h  {format_size(job.rss_bytes)}"
            lines.append(f"{job.name:<{width}}  {job.status:<11}  {steps:>26}  return {shown}{cost}")
        lines += [f"{job.status}: {job.name}: {job.failure}" for job in self.failed]
        if self.estimate is not None:
            lines += [*self.estimate.notes, f"{len(self.jobs)} runs, {self.estimate.render()}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class ReproductionResult:
    """The runs and the page of a table or figure of the paper.

    Attributes:
        sweep: its runs, with estimated durations if only these were asked for.
        page: the page; None if no run has begun.

    """

    sweep: SweepResult
    page: Path | None

    def render(self) -> str:
        """Return the runs as a table, and the page's path."""
        return "\n".join([self.sweep.render(), *([] if self.page is None else [f"{self.page}: written"])])


@dataclass(frozen=True)
class EvaluationResult:
    """Returns of whole episodes.

    Attributes:
        env: resolved id of the environment.
        timestep: agent step of the evaluated checkpoint.
        returns: sum of raw rewards of each finished episode.
        signal: number of the signal that stopped the evaluation early; None if all episodes were played.
        steps: agent steps played. Bundles only, as are the following.
        frame_to_action_ms: percentiles of the time from a frame to its action, in milliseconds, by name: "p50".
        actions: the environment's actions that the policy chose: how often each integer was taken, or for arrays
            the "low", "mean" and "high" of each element.
        rss_peak_bytes: peak resident memory of the process.
        encoder: which encoder ran, and the times of both, if the bundle has an int8 encoder too.

    """

    env: str
    timestep: int
    returns: tuple[float, ...]
    signal: int | None = None
    steps: int | None = None
    frame_to_action_ms: Mapping[str, float] | None = None
    actions: Mapping[str, Any] | None = None
    rss_peak_bytes: int | None = None
    encoder: str | None = None

    @property
    def mean_return(self) -> float | None:
        """Mean over episodes; None without an episode."""
        return float(np.mean(self.returns)) if self.returns else None

    @property
    def std_return(self) -> float | None:
        """Population standard deviation over episodes; None without an episode."""
        return float(np.std(self.returns)) if self.returns else None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        data: dict[str, Any] = {"env": self.env, "timestep": self.timestep, "episodes": len(self.returns)}
        if self.returns:
            data |= {"mean_return": self.mean_return, "std_return": self.std_return, "returns": list(self.returns)}
        if self.steps is not None:
            data |= {
                "steps": self.steps,
                "frame_to_action_ms": self.frame_to_action_ms,
                "actions": self.actions,
                "rss_peak_bytes": self.rss_peak_bytes,
            }
        return data

    def render(self) -> str:
        """Return the result as a few lines of text."""
        lines = [] if self.encoder is None else [self.encoder]
        lines.append(f"{self.env}, step {self.timestep:,}, {counted(len(self.returns), 'episode')}")
        if self.returns:
            returns = " ".join(f"{value:g}" for value in self.returns)
            lines.append(f"return {self.mean_return:.1f} ± {self.std_return:.1f}: {returns}")
        if self.frame_to_action_ms:
            shown = ", ".join(f"{name} {value:.3f} ms" for name, value in self.frame_to_action_ms.items())
            lines.append(f"frame to action, {self.steps:,} steps: {shown}")
        if self.rss_peak_bytes is not None:
            lines.append(f"RSS peak {format_size(self.rss_peak_bytes)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    Attributes:
        path: the page.
        folder: the folder of the figures' files; None if none were asked for.
        figures: names of the figures, which have NAME.png and NAME.csv in `folder`.
        unfinished: folders of runs that have not reached their end.

    """

    path: Path
    folder: Path | None
    figures: tuple[str, ...]
    unfinished: tuple[Path, ...]

    def render(self) -> str:
        """Return the result as a few lines of text."""
        lines = [f"unfinished: {path}" for path in self.unfinished]
        if self.folder is not None:
            lines.append(f"{self.folder}: PNG and CSV of {', '.join(self.figures)}")
        return "\n".join([*lines, f"{self.path}: {len(self.figures)} figures, {self.path.stat().st_size:,} B"])


@dataclass(frozen=True)
class AnalysisResult:
    """An analysis that was written.

    Attributes:
        folder: the folder of its files.
        files: names of the files: figures and attention maps as PNG, tables as CSV.
        summary: the results, one line of text each.

    """

    folder: Path
    files: tuple[str, ...]
    summary: tuple[str, ...]

    def render(self) -> str:
        """Return the result as a few lines of text."""
        return "\n".join([*self.summary, f"{self.folder}: {len(self.files)} files"])


@dataclass(frozen=True)
class RecordResult:
    """Demonstrations that were written.

    Attributes:
        path: the file.
        env: resolved id of the environment.
        returns: raw return of each episode.
        rows: time steps and final frames in the file.
        signal: number of the signal that stopped it early, or None.

    """

    path: Path
    env: str
    returns: tuple[float, ...]
    rows: int
    signal: int | None

    def render(self) -> str:
        """Return the result as one line of text."""
        mean = f", mean return {sum(self.returns) / len(self.returns):.1f}" if self.returns else ""
        return f"{self.path}: {self.env}, {counted(len(self.returns), 'episode')}, {counted(self.rows, 'row')}{mean}"


@dataclass(frozen=True)
class ExportResult:
    """A bundle that was written.

    Attributes:
        path: the bundle's file.
        env: resolved id of the environment that the agent was trained on.
        timestep: agent step of the exported checkpoint.
        members: one line for each part of the bundle, with its size.

    """

    path: Path
    env: str
    timestep: int
    members: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def render(self) -> str:
        """Return the result as a few lines of text."""
        return "\n".join([*self.members, f"{self.path}: {self.env}, step {self.timestep:,}, {self.size_bytes:,} B"])
