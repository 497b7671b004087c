"""Tests of reading checkpoints: from files that change, through links, and while another process writes."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from seer_runtime.durable import CorruptFileError, files
from tests.runtime.durable_faults import listing, load, publish


def test_read_bytes_and_read_json_verify_the_content(tmp_path: Path) -> None:
    publish(tmp_path, 1, mark="mine")
    found = durable.newest_checkpoint(tmp_path)
    assert found.read_bytes("mark.json", 6) == b'"mine"'
    assert found.read_json("mark.json") == "mine"
    with pytest.raises(CorruptFileError, match="too large: 6 bytes, the limit is 5"):
        found.read_bytes("mark.json", 5)
    for name in ("nothing", "manifest.json", "../step_0000000001/mark.json"):
        with pytest.raises(CorruptFileError, match="has no file '"):
            found.read_bytes(name, 100)
    (found.path / "mark.json").write_bytes(b'"mind"')
    with pytest.raises(CorruptFileError, match="is damaged"):
        found.read_json("mark.json")
    (found.path / "mark.json").write_bytes(b'"min"')
    with pytest.raises(CorruptFileError, match="has 5 bytes instead of 6"):
        found.read_json("mark.json")


def test_a_linked_checkpoints_folder_is_rejected(tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", 1)
    (tmp_path / "checkpoints").symlink_to("elsewhere")
    with pytest.raises(CorruptFileError, match="a symbolic link"):
        durable.newest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(NotADirectoryError, match="a symbolic link"):
        publish(tmp_path / "checkpoints", 2)
    assert listing(tmp_path / "elsewhere") == ["step_0000000001"]


def test_publishing_removes_links_and_does_not_follow_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".tmp_step_0000000001", "step_0000000001", ".replaced_step_0000000001"):
        (folder / name).symlink_to(outside)
    publish(folder, 1)
    assert listing(folder) == ["step_0000000001"]
    assert load(folder) == (1, "")
    assert listing(outside) == ["mine"]


def test_reader_starts_over_if_a_writer_moves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, 1, mark="old")
    read_json, moves = files.read_json, 0

    def move_first(path: Path, at_most_bytes: int = durable.JSON_BYTES) -> Any:
        nonlocal moves
        if moves < 3:
            moves += 1
            with monkeypatch.context() as patch:
                patch.setattr(files, "read_json", read_json)
                publish(tmp_path, 1 + moves, keep=1)
        return read_json(path, at_most_bytes)

    monkeypatch.setattr(files, "read_json", move_first)
    found = durable.newest_checkpoint(tmp_path)
    assert (found.manifest["timestep"], found.skipped, moves) == (4, (), 3)


@pytest.mark.parametrize("spread", [False, True])
def test_reader_always_finds_a_sound_checkpoint_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    publish(tmp_path, 1, mark="0")
    writing = threading.Event()

    def write() -> None:
        for number in range(60):
            publish(tmp_path, number if spread else 1, mark=str(number), keep=1)
        writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    try:
        while not writing.is_set():
            durable.newest_checkpoint(tmp_path)
            reads += 1
    finally:
        writer.join()
    assert reads > 10
