"""The tables of a run's folder: rows are cut back to the checkpoint on resume, and a digest guards those before it."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seer_edge.envs import Episode
from seer_edge.runs.run_folder import RunFolder
from seer_runtime import durable

COLUMNS = (
    "time/total_timesteps",
    "time/fps",
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "eval/mean_reward",
    "eval/std_reward",
    "train/loss",
    "memory/observation_bytes",
    "memory/workspace_bytes",
    "memory/budget_bytes",
    "memory/rss_bytes",
    "replay/rows",
    "replay/capacity",
    "replay/clip_rate",
    "seer/frozen",
    "compute/flops",
    "time/time_elapsed",
)
EPISODE_COLUMNS = ("step", "return", "length", "updates")
"""Of a whole game of training: the step that it ended with, its raw return, its steps, all updates up to there."""
TABLE_BYTES_MAX = 2**27


class Table:
    """A table of a run's folder, one row an event, its step in the first of `columns`; an empty cell means no figure.

    Begins with the rows of an earlier part of the run up to step `until`, which its checkpoint knows; those after it
    will be written again.
    """

    def __init__(self, path: Path, columns: Sequence[str], until: int) -> None:
        self.path, self.until = path, until
        self._columns, self._unsynced = columns, False
        self._begin(until)

    def _begin(self, until: int) -> None:
        """Write the rows up to `until` anew and go on after them."""
        rows = _rows_until(self.path, len(self._columns), until)
        lines = [_line(self._columns), *map(_line, rows)]
        durable.write_atomic(self.path, lines)
        self._file = durable.Appender(self.path)
        self._digest = hashlib.sha256(b"".join(lines))
        self.last = int(rows[-1][0]) if rows else 0  # the step of the last row

    @property
    def digest(self) -> str:
        """SHA-256 of all that was written."""
        return self._digest.hexdigest()

    def write(self, row: Mapping[str, float]) -> None:
        """Append one row."""
        line = _line([_cell(row[name]) if name in row else "" for name in self._columns])
        self._file.append(line)
        self._digest.update(line)
        self.last = int(row[self._columns[0]])

    def sync(self) -> None:
        """Have the rows on the disk.

        Where that fails the next one tries with a file that is written anew: nobody knows what the disk has of this.
        """
        if self._unsynced:
            self._file.close()
            self._begin(self.last)
        self._unsynced = True
        self._file.sync()
        self._unsynced = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _rows_until(path: Path, width: int, step: int) -> list[list[str]]:
    """Whole rows of a file that may have been cut anywhere, or may not be there."""
    try:
        data = durable.read_bytes(path, TABLE_BYTES_MAX)
    except (OSError, durable.CorruptFileError):
        return []
    rows = csv.reader(io.StringIO(data.decode(errors="replace"), newline=""))
    kept = [row for row in rows if len(row) == width and row[0].isascii() and row[0].isdigit()]
    return [row for row in kept if int(row[0]) <= step]


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def episode_row(step: int, episode: Episode, updates: int) -> dict[str, float]:
    """A row of `EPISODE_COLUMNS`: a training game that ended with `step`, after `updates` of the agent."""
    total = episode.episode_return
    figures = (step, int(total) if total.is_integer() else total, episode.length_steps, updates)
    return dict(zip(EPISODE_COLUMNS, figures, strict=True))


def open_tables(folder: RunFolder, logged_at: int, timestep: int) -> dict[str, Table]:
    """The tables of a run that stands at `timestep` and wrote its last row of progress at `logged_at`."""
    return {
        "progress": Table(folder.progress, COLUMNS, logged_at),
        "episodes": Table(folder.episodes, EPISODE_COLUMNS, timestep),
    }


def changed_tables(tables: Mapping[str, Table], digests: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of `tables` whose rows are not those that `digests` were taken of."""
    for name, table in tables.items():
        # Checkpoints of earlier versions have no digest of a table that was not written then.
        if digests.get(name, table.digest) != table.digest:
            yield f"{table.path}: its rows up to step {table.until:,} are not as they were written"
