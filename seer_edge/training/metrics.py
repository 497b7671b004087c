"""Metrics of a running training: means over intervals, speeds and the console."""

import logging
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from seer_edge.envs import Episode
from seer_edge.training.session import StepReport

LOG = logging.getLogger(__name__)
RECENT_STEPS, RECENT_EPISODES_MIN = 10_000, 5
"""Recent episodes ended within so many steps, or are the latest few where fewer did."""


@dataclass
class PhaseClock:
    """Steps per second of the steps that made an update, by phase."""

    steps: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, report: StepReport) -> None:
        """Count one step."""
        if report.loss is not None:
            self.steps[phase] = self.steps.get(phase, 0) + 1
            self.seconds[phase] = self.seconds.get(phase, 0.0) + report.seconds

    def steps_per_second(self, phase: str) -> float | None:
        """Return the speed in a phase, or None if it had no updates."""
        seconds = self.seconds.get(phase)  # 0 if the environment has replaced the clock
        return self.steps[phase] / seconds if seconds else None

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {"steps": self.steps, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned. Raises for anything else."""
        self.steps = {phase: int(steps) for phase, steps in state["steps"].items()}
        self.seconds = {phase: float(state["seconds"][phase]) for phase in self.steps}


class Interval:
    """Means over the steps of a log interval, and over recent episodes."""

    def __init__(self) -> None:
        self._episodes: deque[tuple[int, Episode]] = deque()  # each with its last step
        self._loss_sum, self._losses = 0.0, 0  # of the updates in this interval
        self.steps = 0  # in this interval
        self._seconds = 0.0

    def add(self, timestep: int, report: StepReport) -> None:
        """Add the step that led to `timestep`."""
        self.steps += 1
        self._seconds += report.seconds
        if report.loss is not None:
            self._loss_sum, self._losses = self._loss_sum + report.loss, self._losses + 1
        if report.episode is not None:
            self._episodes.append((timestep, report.episode))
        episodes = self._episodes
        while len(episodes) > RECENT_EPISODES_MIN and episodes[0][0] <= timestep - RECENT_STEPS:
            episodes.popleft()

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of recent episodes, or None before the first one ended."""
        episodes = self._episodes
        return sum(episode.episode_return for _, episode in episodes) / len(episodes) if episodes else None

    @property
    def steps_per_second(self) -> float:
        """Speed over all steps of the interval, with or without updates."""
        return self.steps / self._seconds if self._seconds else 0.0

    def drain(self) -> dict[str, float]:
        """Return the figures of the interval, by column, and begin the next one."""
        row = {"time/fps": self.steps_per_second} if self.steps else {}
        if self.mean_return is not None:
            row["rollout/ep_rew_mean"] = self.mean_return
            row["rollout/ep_len_mean"] = sum(e.length_steps for _, e in self._episodes) / len(self._episodes)
        if self._losses:
            row["train/loss"] = self._loss_sum / self._losses
        self._loss_sum, self._losses = 0.0, 0
        self.steps, self._seconds = 0, 0.0
        return row

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        episodes = [[episode.episode_return, episode.length_steps, step] for step, episode in self._episodes]
        return {
            "episodes": episodes,
            "loss_sum": self._loss_sum,
            "losses": self._losses,
            "steps": self.steps,
            "seconds": self._seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for total, length, *step in state["episodes"]:  # the step is missing in runs of earlier versions
            self._episodes.append((int(step[0]) if step else 0, Episode(float(total), int(length))))
        losses = state["losses"]
        if isinstance(losses, list):  # of earlier versions, which stored each loss
            self._loss_sum, self._losses = sum(map(float, losses)), len(losses)
        else:
            self._loss_sum, self._losses = float(state["loss_sum"]), int(losses)
        self.steps, self._seconds = int(state["steps"]), float(state["seconds"])


class Console:
    """Log messages of a run, and a progress bar if one is asked for and stderr is a terminal."""

    def __init__(self, total: int, begin: int = 0, *, progress_bar: bool = False) -> None:
        self._total = total
        # Leaves room for the figures in 80 columns.
        layout = "{percentage:3.0f}%|{bar:8}|{elapsed}<{remaining}{postfix}"
        shown = progress_bar and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=begin, file=sys.stderr, bar_format=layout) if shown else None

    def advance(self, timestep: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(timestep - self._bar.n)

    def note(self, text: str) -> None:
        """Show on the bar what takes long."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def status(self, timestep: int, text: str) -> None:
        """Show the figures of an interval on the bar, or log them if there is none."""
        line = f"step {timestep:,}/{self._total:,}  {text}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            LOG.debug(line)
        else:
            LOG.info(line)

    def say(self, text: str) -> None:
        """Log one line."""
        LOG.info(text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        LOG.warning(text)

    def close(self) -> None:
        """Remove the bar and leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
