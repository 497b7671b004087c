"""Tests that readers skip damaged checkpoints and name the damage."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from seer_runtime.durable import CorruptFileError, NoSoundCheckpointError, files
from tests.runtime.durable_faults import publish


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | changes))

    return edit


def add_file(name: str) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        records = json.loads((path / "manifest.json").read_text())["files"]
        edit_manifest(files=records | {name: records["mark.json"]})(path)

    return add


def link_out(path: Path) -> None:
    (path / "mark.json").rename(path.parent / "elsewhere")
    (path / "mark.json").symlink_to("../elsewhere")


def link_whole(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def empty_list(path: Path) -> None:
    (path / "manifest.json").write_text("[]")


def file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (lambda p: os.truncate(p / "x.safetensors", 10), "'x.safetensors' has 10 bytes instead of"),
    "flipped": (lambda p: flip_bit(p / "x.safetensors"), "'x.safetensors' is damaged (SHA-256 differs)"),
    "missing": (lambda p: (p / "mark.json").unlink(), "'mark.json' is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "no manifest.json"),
    "cut manifest": (lambda p: os.truncate(p / "manifest.json", 20), "manifest.json is not JSON"),
    "empty manifest": (lambda p: os.truncate(p / "manifest.json", 0), "manifest.json is not JSON"),
    "list manifest": (empty_list, "lists no files"),
    "no files": (edit_manifest(files=None), "lists no files"),
    "bad record": (edit_manifest(files={"mark.json": {"size_bytes": 2}}), "no valid size and SHA-256 of 'mark.json'"),
    "true size": (
        edit_manifest(files={"mark.json": {"size_bytes": True, "sha256": "0" * 64}}),
        "no valid size and SHA-256 of 'mark.json'",
    ),
    "other version": (edit_manifest(format_version=2), "has format version 2, this release reads 1"),
    "other timestep": (edit_manifest(timestep=7), "has timestep 7"),
    "no timestep": (edit_manifest(timestep=None), "has timestep None"),
    "path": (add_file("../step_0000000001/mark.json"), "is not a plain file name"),
    "absolute": (add_file("/etc/hostname"), "is not a plain file name"),
    "parent": (add_file(".."), "'..', which is not a plain file name"),
    "backslash": (add_file("..\\x"), "is not a plain file name"),
    "link": (link_out, "'mark.json' is a symbolic link"),
    "unlisted link": (lambda p: (p / "extra").symlink_to("mark.json"), "'extra' is a symbolic link"),
    "whole link": (link_whole, "not a folder"),
    "a file": (file_instead, "not a folder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_newest_skips_a_damaged_checkpoint(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    damage(newer)
    found = durable.newest_checkpoint(tmp_path)
    assert found.path == older
    [(path, why)] = found.skipped
    assert path == newer
    assert reason in why
    assert "\n" not in why
    with pytest.raises(CorruptFileError) as caught:
        durable.verify_checkpoint(newer)
    assert str(caught.value) == f"{newer}: {why}"


def test_newest_skips_an_unreadable_checkpoint_and_reports_the_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    read_json = files.read_json

    def fail(path: Path) -> Any:
        if path.parent == newer:
            raise OSError(errno.EIO, "Input/output error")
        return read_json(path)

    monkeypatch.setattr(files, "read_json", fail)
    found = durable.newest_checkpoint(tmp_path)
    assert found.path == older
    assert found.skipped == ((newer, "cannot be read: [Errno 5] Input/output error"),)


def test_files_outside_the_manifest_are_ignored(tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    (path / ".DS_Store").touch()
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_00000000002").mkdir()
    found = durable.newest_checkpoint(tmp_path)
    assert (found.path, found.skipped) == (path, ())


def test_error_without_a_sound_checkpoint_lists_the_reasons_on_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoSoundCheckpointError) as empty:
            durable.newest_checkpoint(folder)
        assert str(empty.value) == f"{folder}: no checkpoint was published here"
    for timestep in (1, 2):
        (publish(tmp_path, timestep) / "manifest.json").unlink()
    with pytest.raises(NoSoundCheckpointError) as caught:
        durable.newest_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no undamaged checkpoint (step_0000000002: no manifest.json; step_0000000001: no manifest.json)"
    )
    assert [path.name for path, _ in caught.value.skipped] == ["step_0000000002", "step_0000000001"]
