"""What the functions of the Python API return."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seer_runtime.system.units import format_size


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
        lines.append(f"{self.env}, step {self.timestep:,}, {len(self.returns)} episodes")
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
