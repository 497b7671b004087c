"""Tests of publishing checkpoints: their files, their order on the disk, and faults at every step."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seer_runtime import durable
from seer_runtime.durable import files
from tests.runtime.durable_faults import ERRNOS, Faults, listing, load, publish


def test_checkpoint_contains_its_files_and_a_manifest(tmp_path: Path) -> None:
    path = publish(tmp_path / "run" / "checkpoints", 12_000)
    assert path == tmp_path / "run" / "checkpoints" / "step_0000012000"
    assert listing(path) == ["manifest.json", "mark.json", "x.safetensors"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["timestep"] == 12_000
    assert manifest["files"]["mark.json"] == {
        "size_bytes": 2,
        # printf '""' | sha256sum
        "sha256": "12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126",
    }
    found = durable.newest_checkpoint(path.parent)
    assert (found.path, found.manifest, found.skipped) == (path, manifest, ())


def test_files_then_manifest_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, fsync_folder, rename = files._fsync, files._fsync_folder, files._rename

    def spy_fsync(descriptor: int) -> None:
        events.append(f"fsync {os.fstat(descriptor).st_ino}")
        fsync(descriptor)

    def spy_folder(path: Path) -> None:
        events.append(f"folder {path.name}")
        fsync_folder(path)

    def spy_rename(source: Path, target: Path) -> None:
        events.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(files, "_fsync", spy_fsync)
    monkeypatch.setattr(files, "_fsync_folder", spy_folder)
    monkeypatch.setattr(files, "_rename", spy_rename)
    path = durable.publish_checkpoint(tmp_path, 1, lambda new: (new / "plain").touch())
    inodes = {name: (path / name).stat().st_ino for name in ("plain", "manifest.json")}
    assert events == [
        f"fsync {inodes['plain']}",
        f"fsync {inodes['manifest.json']}",
        "rename manifest.json",
        "folder .tmp_step_0000000001",
        "rename step_0000000001",
        f"folder {tmp_path.name}",
    ]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    for timestep in range(5):
        publish(tmp_path, timestep, keep=keep)
        kept = range(max(0, timestep + 1 - keep), timestep + 1)
        assert listing(tmp_path) == [f"step_{kept_step:010d}" for kept_step in kept]


def test_half_removed_checkpoint_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove_half(path: Path) -> None:
        (path / "mark.json").unlink()
        raise OSError(errno.EIO, "no")

    publish(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_remove", remove_half)
        with pytest.raises(OSError, match="no"):
            publish(tmp_path, 2, keep=1)
    assert [name for name in listing(tmp_path) if not name.startswith(".tmp_")] == ["step_0000000002"]
    publish(tmp_path, 3, keep=1)
    assert listing(tmp_path) == ["step_0000000003"]


def test_timesteps_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    publish(tmp_path, 10**10)
    publish(tmp_path, 10**11)
    publish(tmp_path, 2 * 10**11, keep=2)
    assert listing(tmp_path) == ["step_100000000000", "step_200000000000"]


def test_same_timestep_is_replaced_and_the_older_checkpoint_is_kept(tmp_path: Path) -> None:
    publish(tmp_path, 1, mark="one")
    publish(tmp_path, 2, mark="two")
    path = publish(tmp_path, 2, mark="again")
    assert durable.read_json(path / "mark.json") == "again"
    assert listing(tmp_path) == ["step_0000000001", "step_0000000002"]


def test_later_checkpoints_are_removed_only_if_they_are_damaged(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 5)
    publish(tmp_path, 6)
    (tmp_path / "step_0000000005" / "mark.json").unlink()
    publish(tmp_path, 3, keep=1)
    assert listing(tmp_path) == ["step_0000000003", "step_0000000006"]


def test_leftovers_of_killed_writers_are_removed_before_the_write(tmp_path: Path) -> None:
    (tmp_path / ".tmp_step_0000000007").mkdir()
    (tmp_path / ".tmp_step_0000000007" / "x").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    seen: list[list[str]] = []
    durable.publish_checkpoint(tmp_path, 8, lambda new: seen.append(listing(tmp_path)))
    assert seen == [[".tmp_step_0000000008", "notes.txt"]]
    assert listing(tmp_path) == ["notes.txt", "step_0000000008"]


def test_failing_writer_publishes_nothing(tmp_path: Path) -> None:
    def write(new: Path) -> None:
        (new / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    publish(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        durable.publish_checkpoint(tmp_path, 2, write)
    assert listing(tmp_path) == ["step_0000000001"]


@pytest.mark.parametrize(
    "write",
    [
        lambda new: (new / "folder").mkdir(),
        lambda new: (new / "link").symlink_to("/dev/null"),
        lambda new: (new / "manifest.json").touch(),
        lambda new: (new / "a\\b").touch(),
        lambda new: os.mkfifo(new / "pipe"),
    ],
)
def test_only_plain_files_are_published(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(ValueError, match="plain files only"):
        durable.publish_checkpoint(tmp_path, 1, write)
    assert listing(tmp_path) == []


@pytest.mark.parametrize(("timestep", "keep"), [(-1, 2), (0, 0)])
def test_publishing_rejects_invalid_timestep_and_keep(tmp_path: Path, timestep: int, keep: int) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        publish(tmp_path / "c", timestep, keep=keep)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("before", [(1,), (2,), (1, 2), (0, 1)])
def test_publishing_survives_a_fault_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: tuple[int, ...], for_good: bool, number: str
) -> None:
    # This test simulates no power loss, and real syncs are slow.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    faults = Faults(monkeypatch)

    # `before` lists the existing checkpoints: an older one, one of the same timestep, or two of which one is removed.
    def prepare() -> Path:
        faults.off()
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        for timestep in before:
            publish(tmp_path / "c", timestep, mark="old")
        return tmp_path / "c"

    folder = prepare()
    faults.off()
    publish(folder, 2, mark="new")
    steps = faults.trace
    assert steps.count("_rename") >= 3
    published = len(steps) - 1 - steps[::-1].index("_fsync_folder")
    for allowed in range(len(steps)):
        folder = prepare()
        faults.at(allowed, for_good, ERRNOS[number])
        with pytest.raises(OSError, match=f"injected into {steps[allowed]}") as caught:
            publish(folder, 2, mark="new")
        assert caught.value.errno == ERRNOS[number]

        assert load(folder) == ((2, "new") if allowed >= published else (max(before), "old"))
        assert durable.newest_checkpoint(folder).skipped == ()
        assert for_good or allowed > published or not [p for p in listing(folder) if p.startswith(".tmp_")]

        faults.off()
        publish(folder, 2, mark="newer")
        assert load(folder) == (2, "newer")
        left = sorted({*before, 2})[-2:]
        assert listing(folder) == [durable.checkpoint_name(timestep) for timestep in left]


def test_a_file_is_never_synced_again_after_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = files._fsync
    fail_at, calls = 0, 0
    failed: set[int] = set()

    def fail_once(descriptor: int) -> None:
        nonlocal calls
        inode = os.fstat(descriptor).st_ino
        assert inode not in failed
        calls += 1
        if calls == fail_at:
            # Keep it open, so that no new file reuses its inode number.
            failed.add(os.fstat(os.dup(descriptor)).st_ino)
            raise OSError(errno.EIO, "no")
        fsync(descriptor)

    monkeypatch.setattr(files, "_fsync", fail_once)
    publish(tmp_path, 1)
    syncs = calls
    assert syncs == 3
    for number in range(1, syncs + 1):
        fail_at, calls = number, 0
        with pytest.raises(OSError, match="no"):
            publish(tmp_path, 2)
        assert listing(tmp_path) == ["step_0000000001"]
        publish(tmp_path, 1)


def test_publishing_syncs_each_file_and_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step_0000000001").mkdir()
    faults = Faults(monkeypatch)
    publish(tmp_path, 2)
    # The files are x.safetensors, mark.json (which `publish` writes without this module) and the manifest.
    assert [step for step in faults.trace if "fsync" in step] == ["_fsync"] * 3 + ["_fsync_folder"] * 2


def test_file_changed_after_it_was_written_is_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(new: Path) -> None:
        durable.write_atomic(new / "log", b"one")
        with (new / "log").open("ab") as stream:
            stream.write(b"two")

    faults = Faults(monkeypatch)
    path = durable.publish_checkpoint(tmp_path, 1, write)
    assert faults.trace.count("_fsync") == 3
    assert durable.newest_checkpoint(tmp_path).read_bytes("log", 6) == b"onetwo"
    assert path.name == "step_0000000001"


def test_replaced_checkpoint_stays_loadable_if_the_swap_and_its_undo_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, 1, mark="old")
    rename = files._rename

    def refuse(source: Path, target: Path) -> None:
        if target.name == "step_0000000001":
            raise OSError(errno.EIO, "no")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_rename", refuse)
        with pytest.raises(OSError, match="no") as caught:
            publish(tmp_path, 1, mark="new")
    assert "remains at" in caught.value.__notes__[0]
    found = durable.newest_checkpoint(tmp_path)
    assert found.path.name == ".replaced_step_0000000001"
    assert durable.read_json(found.path / "mark.json") == "old"

    publish(tmp_path, 1, mark="newer")
    assert listing(tmp_path) == ["step_0000000001"]


def test_kept_timesteps_survive_the_rotation_and_do_not_count(tmp_path: Path) -> None:
    for timestep in (0, 10, 20, 30, 40):
        durable.publish_checkpoint(tmp_path, timestep, lambda new: None, always=(10, 30))
    assert listing(tmp_path) == [f"step_{step:010d}" for step in (10, 20, 30, 40)]
    assert durable.checkpoint_steps(tmp_path) == [10, 20, 30, 40]
    assert durable.newest_checkpoint(tmp_path).path.name == "step_0000000040"
    assert durable.newest_checkpoint(tmp_path, at=10).path.name == "step_0000000010"
    with pytest.raises(durable.NoSoundCheckpointError):
        durable.newest_checkpoint(tmp_path, at=15)
