"""The tables in a run's folder: `progress.csv` and `episodes.csv`.

On resume a table is cut back to the checkpoint. The checkpoint holds a digest of the rows before it.
"""

import hashlib
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
    "eval/mean_ep_length",
    "train/loss",
    "memory/observation_bytes",
    "memory/workspace_bytes",
    "memory/budget_bytes",
    "memory/rss_bytes",
    "memory/anon_bytes",
    "replay/rows",
    "replay/capacity",
    "replay/clip_rate",
    "seer/frozen",
    "seer/similarity",
    "seer/drift",
    "compute/flops",
    "time/time_elapsed",
    "time/cpu_seconds",
)
REAL_TIME_COLUMNS = (
    "control/ticks",
    "control/missed",
    "control/late_p50_ms",
    "control/late_p99_ms",
    "control/late_worst_ms",
    "control/age_p99_ms",
    "control/updates_per_step",
    "control/dropped",
)
"""Further columns of a run with --hz."""
EPISODE_COLUMNS = ("step", "return", "length", "updates")
"""Of a finished training episode: its last step, its raw return, its length in steps, and all updates so far."""
LINE_BYTES_MAX, STEP_DIGITS_MAX = 2**16, 18
"""A longer line or step is damaged."""


class Table:
    """A CSV file with one row per event. The first column is the event's step; an empty cell means no value.

    Opening it keeps the rows up to step `until` and drops later ones: a resumed run writes them again. Columns that the
    file of an earlier version lacks are added, with empty cells in the rows that are kept.

    Attributes:
        found_digest: SHA-256 of the rows that were kept, in the columns that the file had when it was opened.
        last: the step of the last row, 0 without rows.

    """

    def __init__(self, path: Path, columns: Sequence[str], until: int) -> None:
        self.path, self.until = path, until
        self._columns, self._unsynced = columns, False
        self.found_digest = self._begin(until)

    def _begin(self, until: int) -> str:
        """Rewrite the file with its rows up to `until`, ready to append. Return the digest of the rows as found."""
        rows = _rows(self.path, self._columns, until)
        header = next(rows)
        found, self._digest, self.last = hashlib.sha256(_line(header)), hashlib.sha256(), 0

        def lines() -> Iterator[bytes]:
            yield _line(self._columns)
            for row in rows:
                found.update(_line(row))
                self.last = int(row[0])
                cells = dict(zip(header, row, strict=True))
                yield _line([cells.get(name, "") for name in self._columns])

        def digested() -> Iterator[bytes]:
            for line in lines():
                self._digest.update(line)
                yield line

        durable.write_atomic(self.path, digested())
        self._file = durable.Appender(self.path)
        return found.hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        return self._digest.hexdigest()

    def write(self, row: Mapping[str, float]) -> None:
        """Append one row. Raises OSError."""
        self._renew()
        line = _line([_cell(row[name]) if name in row else "" for name in self._columns])
        self._file.append(line)
        self._digest.update(line)
        self.last = int(row[self._columns[0]])

    def sync(self) -> None:
        """Force the rows to the disk. Raises OSError."""
        self._renew()
        self._unsynced = True
        self._file.sync()
        self._unsynced = False

    def _renew(self) -> None:
        """Write a new file after a failed sync, because the state of the old one on the disk is unknown."""
        if self._unsynced:
            self._file.close()
            self._begin(self.last)
            self._unsynced = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(cells: Sequence[str]) -> bytes:
    """Return a line of CSV. Cells are numbers or names of columns, so none needs quotes."""
    return f"{','.join(cells)}\r\n".encode()


def _rows(path: Path, columns: Sequence[str], step: int) -> Iterator[Sequence[str]]:
    """Yield the columns, then the complete rows up to `step`, of a file that may be missing or cut off anywhere.

    The columns are those of the file if they are `columns` without some of them, as in a file of an earlier version.
    Raises OSError if the file cannot be read: it would otherwise be replaced by an empty one.
    """
    lines = _lines(path)
    header = next(lines, [])
    if not header or header != [name for name in columns if name in header] or header[0] != columns[0]:
        header = list(columns)
    yield header
    for row in lines:
        first = row[0]
        is_step = first.isascii() and first.isdigit() and len(first) <= STEP_DIGITS_MAX
        if len(row) == len(header) and is_step and int(first) <= step:
            yield row


def _lines(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each line, one line in memory at a time."""
    try:
        for line in durable.read_lines(path, LINE_BYTES_MAX):
            yield line.decode(errors="replace").rstrip("\r\n").split(",")
    except (FileNotFoundError, durable.CorruptFileError):
        return


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def episode_row(step: int, episode: Episode, updates: int) -> dict[str, float]:
    """Return the row of `EPISODE_COLUMNS` for an episode that ended with `step`, after `updates` updates."""
    total = episode.episode_return
    figures = (step, int(total) if total.is_integer() else total, episode.length_steps, updates)
    return dict(zip(EPISODE_COLUMNS, figures, strict=True))


def open_tables(folder: RunFolder, logged_at: int, timestep: int, *, real_time: bool = False) -> dict[str, Table]:
    """Open the tables of a run that is at `timestep` and wrote its last row of progress at `logged_at`."""
    columns = COLUMNS + REAL_TIME_COLUMNS if real_time else COLUMNS
    return {
        "progress": Table(folder.progress, columns, logged_at),
        "episodes": Table(folder.episodes, EPISODE_COLUMNS, timestep),
    }


def changed_tables(tables: Mapping[str, Table], digests: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each table whose rows differ from those that the checkpoint's `digests` were taken of."""
    for name, table in tables.items():
        # Checkpoints of earlier versions lack the digest of a table that did not exist then.
        if digests.get(name, table.found_digest) != table.found_digest:
            yield f"{table.path}: its rows up to step {table.until:,} were changed since they were written"


def copy_tables(source: RunFolder, target: RunFolder, logged_at: int, timestep: int) -> None:
    """Copy the rows of the tables up to a checkpoint at `timestep`, before which `logged_at` was the last interval."""
    for path, columns, until in (
        (source.progress, COLUMNS + REAL_TIME_COLUMNS, logged_at),
        (source.episodes, EPISODE_COLUMNS, timestep),
    ):
        durable.write_atomic(target.path / path.name, map(_line, _rows(path, columns, until)))
