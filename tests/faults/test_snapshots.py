"""Runs with --analyze keep the same snapshots, wherever they were killed."""

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from tests.faults import runs

KILLED_IN_SNAPSHOT = pytest.mark.fault(
    "SIGKILL while a snapshot of `--analyze` is written, then `resume`",
    promise="every snapshot equals the undisturbed run's",
)


def kill_in_write(number: int, send: Callable[[Any], None]) -> None:
    """Kill this process in the middle of writing snapshot `number`."""
    rename = durable.files._rename
    snapshots = 0

    def renaming(source: Path, target: Path) -> None:
        nonlocal snapshots
        snapshots += target.parent.name == "analysis"
        if snapshots == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    durable.files._rename = renaming


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of Alien with snapshots. It freezes at step 90."""
    folder = tmp_path_factory.mktemp("analyzed")
    assert (
        runs.start(folder / "log", runs.train, runs.alien(analyze=True, keep_checkpoint=(44,)), folder / "run").join()
        == 0
    )
    return folder / "run"


def snapshots(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "analysis").iterdir() if path.suffix == ".safetensors"}


@KILLED_IN_SNAPSHOT
@pytest.mark.parametrize("number", [8, 21])
def test_a_run_killed_in_a_snapshot_keeps_the_same_ones(number: int, analyzed: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(analyze=True, keep_checkpoint=(44,))
    child = runs.start(log, runs.train, config, path, prepare=functools.partial(kill_in_write, number))
    assert child.join() == -signal.SIGKILL
    assert len(snapshots(path)) == number - 1
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert len(snapshots(path)) == 21
    assert snapshots(path) == snapshots(analyzed)
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(analyzed))
    assert not [entry for entry in (path / "analysis").iterdir() if entry.suffix == ".tmp"]


def test_a_resumed_run_makes_the_later_snapshots_again(analyzed: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(analyzed, path)
    for entry in (path / "checkpoints").iterdir():
        if entry.name > "step_0000000044":
            shutil.rmtree(entry)
    stale = path / "analysis" / "step_0000000090.safetensors"
    stale.write_bytes(stale.read_bytes()[:-4] + b"\0\0\0\0")
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert snapshots(path) == snapshots(analyzed)


def test_a_fork_has_the_snapshots_of_its_parent(analyzed: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "fork", tmp_path / "log"
    assert runs.start(log, runs.command, "fork", analyzed, "-o", path, "--at", "44").join() == 0, log.read_text()
    assert snapshots(path) == {name: data for name, data in snapshots(analyzed).items() if name < "step_0000000045"}
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert snapshots(path) == snapshots(analyzed)


def test_a_full_disk_costs_a_snapshot_and_not_the_run(analyzed: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(analyze=True)
    assert runs.start(log, runs.train, config, path, prepare=refuse_snapshots).join() == 0, log.read_text()
    assert "no snapshot at step 5 ([Errno 28] No space left on device); the run continues" in log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(analyzed))


def refuse_snapshots(send: Callable[[Any], None]) -> None:
    """Let the disk refuse every snapshot."""
    create = durable.files._create

    def creating(path: Path) -> int:
        if path.parent.name == "analysis":
            raise OSError(28, "No space left on device")
        return create(path)

    durable.files._create = creating
