"""Tests of single files: atomic writes, JSON, and reads of untrusted files."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from seer_runtime.durable import CorruptFileError, files
from tests.runtime.durable_faults import Faults, listing


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        (b"", b""),
        (bytearray(b"ab"), b"ab"),
        (np.arange(3, dtype="<u2").data, b"\0\0\1\0\2\0"),
        ([], b""),
        (iter([b"ab", b"", memoryview(b"cd")]), b"abcd"),
    ],
)
def test_write_atomic_writes_all_chunks(tmp_path: Path, chunks: Any, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"something longer than what follows")
    durable.write_atomic(path, chunks)
    assert path.read_bytes() == content
    assert listing(tmp_path) == ["f"]


def test_failing_iteration_leaves_the_old_file(tmp_path: Path) -> None:
    def produce() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        durable.write_atomic(tmp_path / "f", produce())
    assert (tmp_path / "f").read_bytes() == b"old"
    assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize("text", ["caf\u00e9 \u20ac", os.fsdecode(b"caf\xe9")])
def test_json_keeps_every_string(text: str, tmp_path: Path) -> None:
    """A path that is not UTF-8 has surrogates, which UTF-8 cannot encode."""
    path = tmp_path / "f.json"
    durable.write_json(path, {text: [text]})
    assert durable.read_json(path) == {text: [text]}
    assert path.read_bytes().isascii() == ("\udce9" in text)


def test_only_leftovers_of_the_same_file_are_removed(tmp_path: Path) -> None:
    for name in (".f.0123abcd.tmp", ".f.json.0123abcd.tmp", ".f.tmp", "f.0123abcd.tmp"):
        (tmp_path / name).write_bytes(b"")
    durable.write_atomic(tmp_path / "f", b"")
    assert listing(tmp_path) == [".f.json.0123abcd.tmp", ".f.tmp", "f", "f.0123abcd.tmp"]


def test_json_is_indented_and_reads_back(tmp_path: Path) -> None:
    value = {"b": [1, None, "ü"], "a": 0.1}
    durable.write_json(tmp_path / "f", value)
    assert durable.read_json(tmp_path / "f") == value
    assert (tmp_path / "f").read_text("utf-8") == ('{\n  "b": [\n    1,\n    null,\n    "ü"\n  ],\n  "a": 0.1\n}\n')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_rejects_nan_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    durable.write_json(tmp_path / "f", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.write_json(tmp_path / "f", {"loss": [value]})
    assert durable.read_json(tmp_path / "f") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"\xff",
        b"[" * 1_000_000,
        b'{"a":' * 150_000,
        b"1" * 5000,
        b"1" * 1_000_000,
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b"\x80\x04N.",
    ],
)
def test_invalid_json_raises_corrupt_file_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CorruptFileError, match="not JSON") as caught:
        durable.read_json(tmp_path / "f")
    assert "\n" not in str(caught.value)
    assert len(caught.value.reason) <= 301


def test_json_up_to_the_limit_reads_back_and_more_is_not_written(tmp_path: Path) -> None:
    # The file adds two quotes and a line break.
    fits = "x" * (durable.JSON_BYTES - 3)
    durable.write_json(tmp_path / "f", fits)
    assert durable.read_json(tmp_path / "f") == fits
    with pytest.raises(ValueError, match="f would have 1,048,577 bytes of JSON, the limit is 1,048,576"):
        durable.write_json(tmp_path / "f", fits + "x")
    assert durable.read_json(tmp_path / "f") == fits


def test_file_above_the_size_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"[1]\n")
    assert durable.read_bytes(path, 4) == b"[1]\n"
    assert durable.read_json(path, at_most_bytes=4) == [1]

    def refuse(*_: object) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(files, "_read_piece", refuse)
    for read in (durable.read_bytes, durable.read_json):
        with pytest.raises(CorruptFileError, match="too large: 4 bytes, the limit is 3"):
            read(path, 3)


def test_short_reads_continue_and_truncation_during_a_read_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    read = files._read_piece
    monkeypatch.setattr(files, "_read_piece", lambda fd, size, offset: read(fd, min(size, 3), offset))
    assert durable.read_bytes(path, 10) == b"0123456789"

    def cut(descriptor: int, size_bytes: int, offset_bytes: int) -> bytes:
        os.truncate(path, 5)
        return read(descriptor, size_bytes, offset_bytes)

    monkeypatch.setattr(files, "_read_piece", cut)
    with pytest.raises(CorruptFileError, match="shorter than when it was opened"):
        durable.read_bytes(path, 10)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "a symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "a symbolic link"),
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "not a regular file"),
    ],
)
def test_only_a_regular_file_is_read(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "f"
    make(path)
    before = set(Path("/proc/self/fd").iterdir())
    for read in (durable.read_json, durable.read_tensors, lambda path: durable.read_bytes(path, 1)):
        with pytest.raises(CorruptFileError, match=reason):
            read(path)
    assert set(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(CorruptFileError, match="not a regular file"):
        durable.read_bytes(Path("/dev/zero"), 10)
    with pytest.raises(FileNotFoundError):
        durable.read_json(tmp_path / "none")


def test_make_folder_creates_parents_and_accepts_an_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    durable.make_folder(tmp_path / "a" / "b")
    assert faults.trace == ["_make_folder", "_fsync_folder"] * 2
    durable.make_folder(tmp_path / "a" / "b")
    assert len(faults.trace) == 4
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "f")


@pytest.mark.parametrize("for_good", [False, True])
def test_write_atomic_survives_a_fault_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    faults = Faults(monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"old")
    durable.write_atomic(path, [b"ne", b"w"])
    steps = faults.trace
    assert steps == ["_create", "_write", "_write", "_fsync", "_rename", "_fsync_folder"]
    for allowed, step in enumerate(steps):
        path.write_bytes(b"old")
        faults.at(allowed, for_good)
        with pytest.raises(OSError, match=f"injected into {step}"):
            durable.write_atomic(path, [b"ne", b"w"])
        assert path.read_bytes() == (b"new" if step == "_fsync_folder" else b"old")
        assert for_good or listing(tmp_path) == ["f"]
        faults.off()
        durable.write_atomic(path, b"newer")
        assert path.read_bytes() == b"newer"
        assert listing(tmp_path) == ["f"]


def test_folder_sync_ignores_only_einval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, expected in ((errno.EINVAL, contextlib.nullcontext()), (errno.EIO, pytest.raises(OSError))):

        def fail(descriptor: int, number: int = number) -> None:
            raise OSError(number, "fsync")

        monkeypatch.setattr(os, "fsync", fail)
        with expected:
            files._fsync_folder(tmp_path)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_that_fails_its_check_does_not_take_its_place(tmp_path: Path, before: bytes | None) -> None:
    path, seen = tmp_path / "file", []
    if before is not None:
        path.write_bytes(before)

    def check(temporary: Path) -> None:
        seen.append((temporary.parent, temporary.read_bytes(), path.exists()))
        raise ValueError("not good")

    with pytest.raises(ValueError, match="not good"):
        durable.write_atomic(path, [b"new ", b"bytes"], check=check)
    assert seen == [(tmp_path, b"new bytes", before is not None)]
    assert (path.read_bytes() if path.exists() else None) == before
    assert len([*tmp_path.iterdir()]) == (before is not None)
    durable.write_atomic(path, b"newer", check=lambda temporary: seen.append(temporary.read_bytes()))
    assert path.read_bytes() == seen[-1] == b"newer"
