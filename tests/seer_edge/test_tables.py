"""The tables of a resumed run: written by an earlier version, damaged, large."""

import csv
import errno
import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from seer_edge.runs.run_folder import RunFolder
from seer_edge.training.tables import COLUMNS, changed_tables, open_tables
from seer_runtime import durable

OLD_COLUMNS = [name for name in COLUMNS if name != "memory/anon_bytes"]


def _old_run(path: Path) -> tuple[RunFolder, str]:
    """Write a progress.csv without the new column; return the run's folder and the digest up to step 200."""
    folder = RunFolder(path)
    lines = [OLD_COLUMNS, *([str(step + column) for column in range(len(OLD_COLUMNS))] for step in (100, 200, 300))]
    data = ["".join((",".join(line), "\r\n")).encode() for line in lines]
    folder.progress.write_bytes(b"".join(data))
    return folder, hashlib.sha256(b"".join(data[:3])).hexdigest()


def test_a_resumed_run_keeps_the_rows_that_lack_a_new_column(tmp_path: Path) -> None:
    folder, digest = _old_run(tmp_path)
    tables = open_tables(folder, 200, 200)
    assert list(changed_tables(tables, {"progress": digest})) == []
    tables["progress"].write({"time/total_timesteps": 300, "memory/anon_bytes": 7})
    for table in tables.values():
        table.close()
    with folder.progress.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["time/total_timesteps"] for row in rows] == ["100", "200", "300"]
    assert [row["memory/anon_bytes"] for row in rows] == ["", "", "7"]
    assert [[row[name] for name in OLD_COLUMNS] for row in rows[:2]] == [
        [str(step + column) for column in range(len(OLD_COLUMNS))] for step in (100, 200)
    ]
    again = open_tables(folder, 300, 300)["progress"]
    assert again.found_digest == again.digest == tables["progress"].digest
    again.close()


def test_a_changed_row_without_the_new_column_is_reported(tmp_path: Path) -> None:
    folder, digest = _old_run(tmp_path)
    folder.progress.write_bytes(folder.progress.read_bytes().replace(b"\r\n200,", b"\r\n199,"))
    (warning,) = changed_tables(open_tables(folder, 200, 200), {"progress": digest})
    assert "rows up to step 200 were changed" in warning


def test_rows_below_an_unknown_column_are_dropped(tmp_path: Path) -> None:
    folder, _ = _old_run(tmp_path)
    folder.progress.write_bytes(folder.progress.read_bytes().replace(b"train/loss", b"train/lost"))
    tables = open_tables(folder, 200, 200)
    assert tables["progress"].last == 0


def test_a_table_that_cannot_be_read_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = _old_run(tmp_path)
    before = folder.progress.read_bytes()

    def fail(*unused: object) -> Iterator[bytes]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "read_lines", fail)
    with pytest.raises(OSError, match="Input/output error"):
        open_tables(folder, 300, 300)
    assert folder.progress.read_bytes() == before


def test_a_damaged_line_costs_that_line_only(tmp_path: Path) -> None:
    """A quote that swallows the next lines, a line without an end, and a step with too many digits."""
    folder, digest = _old_run(tmp_path)
    whole = folder.progress.read_bytes()
    rest = b"," * (len(OLD_COLUMNS) - 1) + b"\r\n"
    damaged = b'"100' + rest + b"1" * 200_000 + b"\r\n" + b"9" * 5_000 + rest
    folder.progress.write_bytes(whole.replace(b"\r\n200,", b"\r\n" + damaged + b"200,"))
    tables = open_tables(folder, 200, 200)
    assert list(changed_tables(tables, {"progress": digest})) == []
    assert tables["progress"].last == 200


def test_a_large_table_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    row, rows = ",".join(["1.25"] * (len(COLUMNS) - 1)), 20_000
    lines = (f"{step},{row}\r\n" for step in range(1, rows + 1))
    folder.progress.write_text(",".join(COLUMNS) + "\r\n" + "".join(lines), newline="")
    tracemalloc.start()
    table = open_tables(folder, rows - 1, rows - 1)["progress"]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.last == rows - 1
    assert peak_bytes < 2**20 < folder.progress.stat().st_size
