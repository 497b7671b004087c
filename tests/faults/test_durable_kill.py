"""SIGKILL at every file system step of `seer_runtime.durable`."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from seer_runtime.durable import files
from tests.runtime.durable_faults import STEPS, Faults, load, publish

BEFORE = [(1,), (2,), (1, 2), (0, 1)]


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Writes of a killed process stay in the page cache, so syncs would only cost time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(step: Callable[..., Any], number: int, when: str, count: list[int]) -> Callable[..., Any]:
    def killing(*args: Any) -> Any:
        count[0] += 1
        if count[0] - 1 != number:
            return step(*args)
        if when == "before":
            die()
        if when == "inside":
            step(args[0], args[1][: len(args[1]) // 2])
            die()
        step(*args)
        die()

    return killing


def killed_at(action: Callable[[], object], number: int, when: str) -> None:
    """Run `action` in a child that kills itself before, inside or after step `number`."""
    child = os.fork()
    if child == 0:
        try:
            count = [0]
            for step in STEPS:
                setattr(files, step, killer(getattr(files, step), number, when, count))
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def moments(steps: list[str]) -> list[tuple[int, str]]:
    """Return the moments to kill at: before each step, inside each write, and after the last step."""
    found = [(number, "before") for number in range(len(steps))]
    found += [(number, "inside") for number, step in enumerate(steps) if step == "_write"]
    return [*found, (len(steps) - 1, "after")]


@pytest.mark.fault(
    "SIGKILL at every file system step of publishing a checkpoint, and inside every write",
    promise="the old or the new checkpoint, complete",
)
@pytest.mark.parametrize("before", BEFORE)
def test_checkpoints_survive_a_kill_at_every_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    before: tuple[int, ...],
) -> None:
    folder = tmp_path / "checkpoints"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for timestep in before:
            publish(folder, timestep, mark="old")

    prepare()
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        publish(folder, 2, mark="new")
    steps = faults.trace
    published = len(steps) - 1 - steps[::-1].index("_fsync_folder")
    visible = published - 1
    assert steps[visible] == "_rename"
    record_property("trials", len(moments(steps)))
    for number, when in moments(steps):
        prepare()
        killed_at(lambda: publish(folder, 2, mark="new"), number, when)
        expected = (2, "new") if number > visible else (max(before), "old")
        assert load(folder) == expected
        assert durable.newest_checkpoint(folder).skipped == ()
        publish(folder, 2, mark="newer")
        assert load(folder) == (2, "newer")


@pytest.mark.fault("SIGKILL at every file system step of replacing a file", promise="the old or the new file, complete")
def test_a_replaced_file_survives_a_kill_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        durable.write_atomic(path, [b"ne", b"w"])
    record_property("trials", len(moments(faults.trace)))
    for number, when in moments(faults.trace):
        path.write_bytes(b"old")
        killed_at(lambda: durable.write_atomic(path, [b"ne", b"w"]), number, when)
        assert path.read_bytes() == (b"new" if number > faults.trace.index("_rename") else b"old")
        durable.write_atomic(path, b"newer")
        assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


@pytest.mark.fault(
    "SIGKILL at every file system step of appending to a table",
    promise="complete records, then at most a part of the last one",
)
def test_appended_records_survive_a_kill_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    records = [b"one\n", b"second\n", b"3\n"]

    def append(path: Path) -> None:
        with durable.Appender(path) as appender:
            for record in records:
                appender.append(record)
                appender.sync()

    with monkeypatch.context() as patch:
        faults = Faults(patch)
        append(tmp_path / "whole")
    record_property("trials", len(moments(faults.trace)))
    for number, when in moments(faults.trace):
        path = tmp_path / f"{number}-{when}"
        killed_at(lambda path=path: append(path), number, when)  # type: ignore[misc]
        written = faults.trace[:number].count("_write")
        whole = b"".join(records[:written])
        half = records[written][: len(records[written]) // 2] if when == "inside" else b""
        assert (path.read_bytes() if path.exists() else b"") == whole + half
