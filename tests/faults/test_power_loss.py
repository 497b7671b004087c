"""Power loss, by a model of the states that POSIX allows a file system to have after it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_runtime import durable
from tests.runtime.durable_disk import CONTENTS, Disk, Moment, Tree, build
from tests.runtime.durable_faults import load, publish

# Published in this order, keeping two: growth, pruning, the same step again, an earlier step.
PUBLICATIONS = [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (4, "e"), (4, "f"), (4, "g")]
TABLE = [b"step,return\n", b"1,10\n", b"2,20\n", b"3,30\n"]

Forgets = Callable[[str, str], bool]


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    # The model decides what is synced, so real syncs are not needed.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def publications(folder: Path, disk: Disk) -> None:
    for number, (timestep, mark) in enumerate(PUBLICATIONS):
        publish(folder / "run" / "checkpoints", timestep, mark=mark)
        disk.acknowledge(number)


def checkpoint_is_lost(folder: Path, acknowledged: int | None) -> bool:
    """Return whether neither the newest acknowledged checkpoint nor a newer one can be loaded."""
    try:
        found = load(folder / "run" / "checkpoints")
    except durable.NoSoundCheckpointError:
        return acknowledged is not None
    return PUBLICATIONS.index(found) < (-1 if acknowledged is None else acknowledged)


def replacements(folder: Path, disk: Disk) -> None:
    for number in range(3):
        durable.write_json(folder / "summary.json", {"number": number, "text": "x" * 20})
        disk.acknowledge(number)


def replacement_is_lost(folder: Path, acknowledged: int | None) -> bool:
    path = folder / "summary.json"
    if not path.exists():
        return acknowledged is not None
    try:
        found = durable.read_json(path)
    except durable.CorruptFileError:
        return True
    assert found["text"] == "x" * 20
    return bool(found["number"] < (-1 if acknowledged is None else acknowledged))


def table(folder: Path, disk: Disk) -> None:
    with durable.Appender(folder / "progress.csv") as appender:
        for number, record in enumerate(TABLE):
            appender.append(record)
            appender.sync()
            disk.acknowledge(number)


def record_is_lost(folder: Path, acknowledged: int | None) -> bool:
    path = folder / "progress.csv"
    found = path.read_bytes() if path.exists() else b""
    return not found.startswith(b"".join(TABLE[: 0 if acknowledged is None else acknowledged + 1]))


Check = Callable[[Path, Any], bool]
SCENARIOS: dict[str, tuple[Callable[[Path, Disk], None], Check]] = {
    "checkpoints": (publications, checkpoint_is_lost),
    "a file replaced": (replacements, replacement_is_lost),
    "a table appended to": (table, record_is_lost),
}


def record(scenario: str, forgets: Forgets | None = None) -> list[Moment]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        disk = Disk(Path(folder), patch, forgets)
        SCENARIOS[scenario][0](Path(folder), disk)
    return disk.moments


def is_lost(scenario: str, tree: Tree, acknowledged: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        build(tree, Path(folder))
        return SCENARIOS[scenario][1](Path(folder), acknowledged)


def different(moments: list[Moment]) -> Iterator[tuple[Tree, Any]]:
    """Yield the worst surviving states of all moments, without duplicates."""
    seen = set()
    for moment in moments:
        for tree in moment.worst():
            key = (tuple(sorted(tree.items())), moment.acknowledged)
            if key not in seen:
                seen.add(key)
                yield tree, moment.acknowledged


@pytest.mark.fault(
    "power loss at every moment, with the worst result that POSIX allows", promise="nothing acknowledged is lost"
)
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.faults)])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_acknowledged_is_lost(
    scenario: str, every: int, record_property: Callable[[str, object], None]
) -> None:
    survivors = list(different(record(scenario)))
    assert len(survivors) > 10
    sample = survivors[:: every if scenario == "checkpoints" else 1]
    record_property("trials", len(sample))
    for tree, acknowledged in sample:
        assert not is_lost(scenario, tree, acknowledged)


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[Moment]]:
    return {scenario: record(scenario) for scenario in SCENARIOS}


@pytest.mark.fault("power loss, with any part of the unsynced data on disk", promise="nothing acknowledged is lost")
@settings(max_examples=150)
@given(data=st.data())
def test_no_subset_of_unsynced_changes_loses_anything(recorded: dict[str, list[Moment]], data: st.DataObject) -> None:
    scenario = data.draw(st.sampled_from(list(SCENARIOS)))
    moment = data.draw(st.sampled_from(recorded[scenario]))
    kept = data.draw(st.sets(st.integers(0, max(0, len(moment.pending) - 1))))
    fates = {node: data.draw(st.sampled_from(CONTENTS)) for node in moment.unsynced()}
    tree = moment.survivor(kept.__contains__, lambda node: fates.get(node, "kept"))
    assert not is_lost(scenario, tree, moment.acknowledged)


@pytest.mark.fault("power loss at every moment, then the run continues", promise="new checkpoints can be published")
def test_publishing_continues_after_a_power_loss(
    recorded: dict[str, list[Moment]], record_property: Callable[[str, object], None]
) -> None:
    survivors = list(different(recorded["checkpoints"]))[::8]
    record_property("trials", len(survivors))
    for tree, _ in survivors:
        with tempfile.TemporaryDirectory() as folder:
            build(tree, Path(folder))
            checkpoints = Path(folder, "run", "checkpoints")
            publish(checkpoints, 4, mark="on")
            assert load(checkpoints) == (4, "on")


PLANTED: dict[str, tuple[str, Forgets]] = {
    "no file of a checkpoint": ("checkpoints", lambda step, name: step == "_fsync" and "manifest" not in name),
    "tensors": ("checkpoints", lambda step, name: step == "_fsync" and "tensors" in name),
    "files written past the module": ("checkpoints", lambda step, name: name == "mark.json"),
    "the manifest": ("checkpoints", lambda step, name: step == "_fsync" and "manifest" in name),
    "the new checkpoint's folder": ("checkpoints", lambda step, name: name.startswith(".tmp_step")),
    "the folder of checkpoints": ("checkpoints", lambda step, name: name == "checkpoints"),
    "the run's folder": ("checkpoints", lambda step, name: name == "run"),
    "the replacing file": ("a file replaced", lambda step, name: step == "_fsync"),
    "the replaced file's folder": ("a file replaced", lambda step, name: step == "_fsync_folder"),
    "the table": ("a table appended to", lambda step, name: step == "_fsync"),
    "the table's folder": ("a table appended to", lambda step, name: step == "_fsync_folder"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_every_sync_is_needed(planted: str) -> None:
    scenario, forgets = PLANTED[planted]
    assert any(is_lost(scenario, tree, acknowledged) for tree, acknowledged in different(record(scenario, forgets)))
