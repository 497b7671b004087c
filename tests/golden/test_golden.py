"""Runs and a bundle of an earlier version have the same results as with that version."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime.policy.bundle import open_bundle
from tests.faults import runs
from tests.golden import record

EXPECTED: dict[str, Any] = json.loads((record.HERE / record.EXPECTED).read_text())
SAME_MACHINE = EXPECTED["machine"]["identity"] == record.machine()
SNAPSHOTS = ("session.environment.snapshot_", "session.environment.pressed_")
"""Arrays that the earlier version did not save."""
RELATIVE, ABSOLUTE = 1e-3, 2e-3
"""How near floats must be on other machines, whose processors add in another order."""


def _assert_array(name: str, got: dict[str, Any], wanted: dict[str, Any]) -> None:
    if SAME_MACHINE or not (wanted["dtype"].startswith("float") or name == "replay.rows"):
        assert got == wanted, name
        return
    assert (got["shape"], got["dtype"]) == (wanted["shape"], wanted["dtype"]), name
    absolute = 1 if wanted["dtype"] == "uint8" else ABSOLUTE  # codes that floats were rounded to
    for figure in ("norm", "samples"):
        np.testing.assert_allclose(got[figure], wanted[figure], RELATIVE, absolute, err_msg=name)


def _assert_state(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    if not SAME_MACHINE:
        for state in (got, wanted):
            state["replay"] = {**state["replay"], "codec_counts": None, "largest_priority": None}
    assert got == wanted


@pytest.mark.parametrize("name", record.RUNS)
def test_a_run_of_an_earlier_version_ends_as_with_that_version(name: str, tmp_path: Path) -> None:
    with tarfile.open(record.HERE / f"{name}.tar.xz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # of Python 3.11.4 and later
        packed.extractall(tmp_path)
    run = tmp_path / name
    config = json.loads((run / "config.json").read_text())
    assert "resize" not in config
    assert "blank_at_lost_life" not in config
    assert "gray_levels" not in config
    assert runs.start(tmp_path / "log", runs.command, "resume", run).join() == 0
    got, wanted = record.outcome(run), EXPECTED[name]
    assert got["step"] == wanted["step"]
    _assert_state(got["state"], wanted["state"])
    added = {name for name in got["arrays"] if name.startswith(SNAPSHOTS)}
    assert got["arrays"].keys() - added == wanted["arrays"].keys()
    for array, digest in wanted["arrays"].items():
        _assert_array(array, got["arrays"][array], digest)
    config = json.loads((run / "config.json").read_text())
    assert (config["resize"], config["blank_at_lost_life"], config["gray_levels"]) == ("area", True, None)


def test_a_bundle_of_an_earlier_version_acts_as_with_that_version() -> None:
    path, wanted = record.HERE / record.BUNDLE, EXPECTED[record.BUNDLE]
    with open_bundle(path) as bundle:
        assert bundle.spec.resize == "area"
        assert bundle.spec.gray_levels is None
        assert bundle.about["environment"]["options"].keys().isdisjoint({"resize", "blank_at_lost_life"})
    got = record.played(path)
    np.testing.assert_allclose(got.pop("values"), wanted["values"], rtol=1e-4, atol=1e-5)
    assert got == {name: value for name, value in wanted.items() if name != "values"}
