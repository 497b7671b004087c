"""Tests of files that grow by whole records."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer_runtime import durable
from seer_runtime.durable import files
from tests.runtime.durable_faults import Faults, listing


def test_records_are_appended_to_existing_content(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    for records in ([b"a\n", bytearray(b"bc\n")], [memoryview(b"d\n"), b""]):
        with durable.Appender(path) as appender:
            for record in records:
                appender.append(record)
            assert appender.size_bytes == path.stat().st_size
            appender.sync()
            appender.close()
    assert path.read_bytes() == b"a\nbc\nd\n"


def test_folder_of_a_new_file_is_synced_before_the_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    with durable.Appender(tmp_path / "f") as appender:
        appender.append(b"x")
        appender.sync()
    assert faults.trace == ["_open_append", "_fsync_folder", "_write", "_fsync"]


def test_closed_appender_writes_nothing(tmp_path: Path) -> None:
    with durable.Appender(tmp_path / "f") as appender:
        pass
    with pytest.raises(OSError, match="descriptor"):
        appender.append(b"x")
    assert (tmp_path / "f").read_bytes() == b""


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_appender_rejects_anything_but_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    if kind == "link":
        (tmp_path / "target").touch()
        path.symlink_to("target")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError):
        durable.Appender(path)
    assert set(Path("/proc/self/fd").iterdir()) == before


@given(
    records=st.lists(st.binary(max_size=20), max_size=6),
    short=st.integers(1, 7),
    fail_at=st.sets(st.integers(0, 25)),
    cut_fails_at=st.sets(st.integers(0, 5)),
)
def test_file_contains_only_whole_records_after_any_failure(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[bytes],
    short: int,
    fail_at: set[int],
    cut_fails_at: set[int],
) -> None:
    write, truncate = files._write, files._truncate
    writes, cuts = 0, 0

    def failing_write(descriptor: int, data: memoryview) -> int:
        nonlocal writes
        writes += 1
        if writes - 1 in fail_at:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data[:short])

    def failing_truncate(descriptor: int, size_bytes: int) -> None:
        nonlocal cuts
        cuts += 1
        if cuts - 1 in cut_fails_at:
            raise OSError(errno.EIO, "stuck")
        truncate(descriptor, size_bytes)

    folder = tmp_path_factory.mktemp("appender")
    path = folder / "f"
    accepted = b""
    with pytest.MonkeyPatch.context() as patch, durable.Appender(path) as appender:
        patch.setattr(files, "_write", failing_write)
        patch.setattr(files, "_truncate", failing_truncate)
        for record in records:
            cuts_before = cuts
            try:
                appender.append(record)
            except OSError:
                # If the cut failed too, the file keeps the partial record until the next call of `append`.
                stuck = cuts - 1 in cut_fails_at and cuts > cuts_before
                assert path.read_bytes().startswith(accepted) if stuck else path.read_bytes() == accepted
            else:
                accepted += record
                assert path.read_bytes() == accepted
            assert appender.size_bytes == len(accepted)
    shutil.rmtree(folder)


def test_appender_refuses_further_calls_after_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(monkeypatch)
    with durable.Appender(tmp_path / "f") as appender:
        appender.append(b"x")
        faults.at(0, for_good=False, number=errno.EIO)
        with pytest.raises(OSError, match="injected into _fsync"):
            appender.sync()
        for attempt in (appender.sync, lambda: appender.append(b"y")):
            with pytest.raises(OSError, match="an earlier sync failed"):
                attempt()
    assert faults.trace == ["_fsync"]
    assert listing(tmp_path) == ["f"]
