"""Read run folders for a report: settings, tables and state. Nothing is written, and a run may continue meanwhile."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.errors import BadInputError
from seer_edge.runs.run_folder import RunFolder, open_run
from seer_runtime import durable

WANTED = "the folders of runs"
TABLE_BYTES_MAX = 2**27
STEPS, SECONDS, CPU_SECONDS, FLOPS = (
    "time/total_timesteps",
    "time/time_elapsed",
    "time/cpu_seconds",
    "compute/flops",
)
NOT_COMPARED = frozenset(
    [
        "seed",
        "threads",
        "analyze",
        "device",
        "pipeline",
        "log_every",
        "eval_every",
        "eval_episodes",
        "eval_in",
        "checkpoint_every_steps",
        "checkpoint_every_seconds",
        "rss_limit_bytes",
        "env_timeout_seconds",
        "tensorboard",
        "tensorboard_dir",
        "wandb",
        "mlflow",
        "status_port",
        "control_socket",
        "min_updates_per_step",
        "eval_video",
        "keep_best",
        "env",
        "env_name",
        "preset",
        "freeze_reason",
        "environment",
        "overrides",
        "versions",
        "take",
        "stop_at_return",
        "keep_checkpoint",
        "origin",
    ]
)
"""Entries of `config.json` that do not distinguish runs."""

_SEED_OF_SOURCE = re.compile(r"[-_]+[0-9]+(__[0-9]{8}-[0-9]{6}(-[0-9]+)?)?$")
"""The end of the name of an imported run or bundle: its seed, and in a default name the time. Each seed may import the
encoder of another run."""
_SUFFIX = re.compile(r"\.[A-Za-z]{2,5}$")
"""Suffix of a bundle, such as .seer. The name of a run may have a dot too, as in lr0.1."""
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of a run: the step of each, and mean and standard deviation over its episodes."""

    steps: Column
    means: Column
    stds: Column


@dataclass(frozen=True)
class Episodes:
    """Finished training episodes: the step at the end of each, and its raw return."""

    steps: Column
    returns: Column


@dataclass(frozen=True)
class Run:
    """What a report needs of one run.

    Attributes:
        path: the run's folder.
        game: the environment's short name.
        algo: the agent.
        seed: the run's seed.
        status: "finished", or why it is not: "running", "paused", "interrupted", or "no summary".
        settings: entries of `config.json` that distinguish runs, by name; those of the agent among them.
        freeze_step: the step of the freeze, None before it or without one.
        total_steps: the step at which the run ends.
        progress: columns of `progress.csv` by name, float64, NaN where a cell is empty.
        episodes: finished training episodes; None if the run's version did not record them.

    """

    path: Path
    game: str
    algo: str
    seed: int
    status: str
    settings: Mapping[str, Any]
    freeze_step: int | None
    total_steps: int
    progress: Mapping[str, Column]
    episodes: Episodes | None

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.status == "finished"

    @property
    def steps(self) -> Column:
        """The step of each row of `progress.csv`."""
        return self.progress[STEPS]

    @property
    def last_step(self) -> int:
        """The newest step in `progress.csv`; 0 without a row."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def evaluations(self) -> Evaluations:
        """All evaluations, oldest first."""
        means = self.column("eval/mean_reward")
        found = np.isfinite(means)
        return Evaluations(self.steps[found], means[found], self.column("eval/std_reward")[found])

    def column(self, name: str) -> Column:
        """Return a column of `progress.csv`; NaN everywhere if the run's version did not record it."""
        return self.progress.get(name, np.full(len(self.steps), np.nan))

    def has(self, name: str) -> bool:
        """Return whether a column of `progress.csv` has a value."""
        return bool(np.isfinite(self.column(name)).any())

    def at_steps(self, name: str, steps: Column) -> Column:
        """Return a column that grows with the steps at any `steps`, linear between the rows, from 0 at step 0."""
        values = self.column(name)
        known = np.isfinite(values)
        if not known.any():
            return np.full(len(steps), np.nan)
        found: Column = np.interp(steps, [0.0, *self.steps[known]], [0.0, *values[known]], right=np.nan)
        return found


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs in `paths`. Raises BadInputError for a folder that is not a run, or one that is named twice."""
    seen: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        if place in seen:
            raise BadInputError(f"{path}: is the same run as {seen[place]}; name each run once")
        seen[place] = path
    return [read_run(path) for path in paths]


def read_run(path: Path) -> Run:
    """Read the run in the folder `path`. Raises BadInputError."""
    folder = open_run(path, WANTED)
    config = _config(folder)
    progress = _progress(folder.progress)
    summary = _summary(folder)
    if summary.get("status") == "finished" and not len(progress[STEPS]):
        raise BadInputError(f"{folder.progress}: has no rows, although the run is finished; leave the run out")
    settings = config.get("settings")
    compared = {**config, **(settings if isinstance(settings, dict) else {})}
    game = str(config.get("env_name", config["env"]))
    if isinstance(config.get("source"), str):
        compared["source"] = _source_name(config["source"], game)
    if config.get("env_kwargs") is not None:
        compared["env_kwargs"] = json.dumps(config["env_kwargs"], sort_keys=True)
    return Run(
        path=path,
        game=game,
        algo=str(config["algo"]),
        seed=int(config["seed"]),
        status=str(summary.get("status", "no summary")),
        settings={
            name: _comparable(value)
            for name, value in compared.items()
            if name not in NOT_COMPARED and not isinstance(value, dict)
        },
        freeze_step=_freeze_step(summary, progress),
        total_steps=int(config["total_timesteps"]),
        progress=progress,
        episodes=_episodes(folder.episodes),
    )


def _source_name(source: str, game: str) -> str:
    """Return the name of an imported run or bundle without what differs between the runs of a setting.

    That is the seed, and the game where the source was trained on the same one.
    """
    name = os.fsencode(Path(source).name).decode(errors="replace")
    return _SEED_OF_SOURCE.sub("", _SUFFIX.sub("", name)).removeprefix(f"{game}__")


def _comparable(value: Any) -> Any:
    """Return whole numbers as ints: the command line writes 30.0 where the Python API and a sweep may write 30."""
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = durable.read_json(folder.config)
        for name in ("env", "algo", "seed", "total_timesteps"):
            config[name]
        int(config["seed"]), int(config["total_timesteps"])
    except (OSError, durable.CorruptFileError) as error:
        raise BadInputError(f"{folder.config}: cannot be read ({error}); give {WANTED}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise BadInputError(f"{folder.config}: not the configuration of a run ({error}); give {WANTED}") from error
    return dict(config)


def _summary(folder: RunFolder) -> dict[str, Any]:
    """Return `summary.json`, empty if the run has none yet. One that is damaged has that as its status."""
    try:
        found = durable.read_json(folder.summary)
    except FileNotFoundError:
        return {}
    except (OSError, durable.CorruptFileError):
        found = None
    return found if isinstance(found, dict) else {"status": f"{folder.summary.name} cannot be read"}


def _freeze_step(summary: Mapping[str, Any], progress: Mapping[str, Column]) -> int | None:
    """Return the step from the summary, or of the first frozen row, which is up to a log interval later."""
    freeze = summary.get("freeze")
    if isinstance(freeze, dict) and isinstance(freeze.get("timestep"), int):
        return int(freeze["timestep"])
    frozen = progress[STEPS][progress["seer/frozen"] == 1] if "seer/frozen" in progress else []
    return int(frozen[0]) if len(frozen) else None


def _progress(path: Path) -> dict[str, Column]:
    columns = _table(path)
    if columns and STEPS not in columns:
        raise BadInputError(f"{path}: has no column {STEPS}; give {WANTED}")
    return columns or {STEPS: np.zeros(0)}


def _episodes(path: Path) -> Episodes | None:
    columns = _table(path)
    if columns is None or not {"step", "return"} <= columns.keys():
        return None
    return Episodes(columns["step"], columns["return"])


def _table(path: Path) -> dict[str, Column] | None:
    """Return the columns of a CSV file of numbers; None if there is no file. Skips a last line that is cut off."""
    try:
        text = durable.read_bytes(path, TABLE_BYTES_MAX).decode()
    except FileNotFoundError:
        return None
    except (OSError, durable.CorruptFileError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); give {WANTED}") from error
    lines = text.split("\n")[:-1]  # without a last line that a running process is writing
    header, *rows = [line.rstrip("\r").split(",") for line in lines] or [[]]
    table = np.empty((len(rows), len(header)))
    for number, row in enumerate(rows):
        try:
            table[number] = [float(cell or "nan") for cell, _ in zip(row, header, strict=True)]
        except ValueError as error:  # a cell that is no number, or another number of cells
            line = number + 2
            raise BadInputError(f"{path}: not a table of numbers, see its line {line:,}; give {WANTED}") from error
    return dict(zip(header, table.T, strict=True))
