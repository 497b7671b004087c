"""Runs with `--store compact`: plan, training, resuming with another budget, bundles, and bad input."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from seer_runtime.policy.bundle import REPLAY, open_bundle
from tests.end_to_end.short_presets import GAME, Run, exported, trained_run

pytestmark = pytest.mark.integration

PLAY = ("--env", GAME, "--store", "compact")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with 75 steps, frozen on the way."""
    return trained_run(tmp_path_factory.mktemp("runs") / "source", *PLAY)


@pytest.fixture(scope="module")
def bundle(source: Path) -> Path:
    """A bundle of that run with its learner and replay rows."""
    return exported(source)


def _replay(run: Path, step: int | None = None) -> dict[str, Any]:
    path = durable.newest_checkpoint(run / "checkpoints").path
    if step is not None:
        path = path.with_name(f"step_{step:010d}")
    return durable.read_tensors(path / "replay.safetensors")


def _layout(run: Path, step: int) -> dict[str, int]:
    path = run / "checkpoints" / f"step_{step:010d}" / "state.json"
    return dict(json.loads(path.read_text())["replay"]["layout"])


def _summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def test_a_run_keeps_more_rows_than_fit_without_compression(source: Path) -> None:
    summary = _summary(source)
    assert (summary["status"], summary["replay"]["store"], summary["replay"]["latent_codec"]) == (
        "finished",
        "compact",
        "uint8",
    )
    assert summary["replay"]["rows"] >= 75
    assert summary["budget"]["observation_bytes_peak"] == summary["budget"]["limit_bytes"] == 300_000
    assert 0 < summary["replay"]["bytes_a_row"] <= 64
    arrays = _replay(source)
    assert arrays["blocks.sizes"].sum() == len(arrays["blocks.head"]) + len(arrays["blocks.tail"])


def test_plan_shows_the_guaranteed_and_the_index(run: Run) -> None:
    status, out, _ = run("plan", *PLAY)
    assert status == 0
    (before,) = [line for line in out.splitlines() if line.startswith("  capacity before the freeze (C) ")]
    assert before.endswith(" 84 rows, the most of this run"), "an eighth more than steps"
    status, out, _ = run("plan", *PLAY, "--total-timesteps", "1000")
    guaranteed = (300_000 // (8 * 1764) - 1) * 8
    assert f"capacity before the freeze (C)       at least {guaranteed} rows; the run shows how many fit" in out
    assert "  index of blocks " in out


# --- bundles ---------------------------------------------------------------------------------------------------


def test_rows_of_a_bundle_are_imported(run: Run, source: Path, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    status, out, _ = run("train", *PLAY, "--from", bundle, "--total-timesteps", "20", "--run-dir", target)
    assert status == 0
    theirs, ours = _replay(source), _replay(target, 0)
    count = len(theirs["reward"])
    assert f"{count:,} replay rows are imported with their codec, uint8" in out
    assert json.loads((target / "config.json").read_text())["latent_codec"] == "uint8"
    np.testing.assert_array_equal(ours["reward"][:count], theirs["reward"])
    blocks = len(theirs["blocks.sizes"])
    np.testing.assert_array_equal(ours["blocks.sizes"][:blocks], theirs["blocks.sizes"])
    stored = [np.concatenate([arrays["blocks.head"], arrays["blocks.tail"]]) for arrays in (theirs, ours)]
    np.testing.assert_array_equal(stored[1][: len(stored[0])], stored[0])


def test_rows_of_a_bundle_that_do_not_fit_are_dropped(run: Run, source: Path, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    budget = 1_800
    words = ("--latent-codec", "uint8", "--mem-budget", str(budget), "--total-timesteps", "75", "--run-dir", target)
    status, out, error = run("train", *PLAY, "--from", bundle, *words)
    assert status == 0, error
    sizes = _replay(source)["blocks.sizes"].astype(int)
    room = budget - 8 * 64
    blocks = sum(sizes[::-1].cumsum() <= room)
    assert 0 < blocks < len(sizes)
    rows = _layout(source, 75)["appended"] % 8 + 8 * blocks
    assert f"{rows:,} replay rows are imported" in out
    assert rows <= _layout(target, 0)["rows"] <= rows + 1  # the imported episode ends
    assert _summary(target)["budget"]["observation_bytes_peak"] <= budget


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_of_the_other_store_are_not_imported(run: Run, bundle: Path, tmp_path: Path, reverse: bool) -> None:
    target, theirs, ours = tmp_path / "target", "compact", "paper"
    if reverse:
        theirs, ours, bundle = ours, theirs, tmp_path / "p.seer"
        assert run("train", "--env", GAME, "--run-dir", tmp_path / "source")[0] == 0
        assert run("export", tmp_path / "source", "-o", bundle, "--with", "learner", "--with", "replay")[0] == 0
    words = ("--env", GAME, "--store", ours, "--total-timesteps", "20", "--run-dir", target)
    status, out, _ = run("train", *words, "--from", bundle)
    assert status == 0
    assert "training continues from the bundle's head" in out
    assert f"the bundle's replay rows are not imported: they need --store {theirs}" in out
    assert _layout(target, 0)["rows"] == 0


Edit = Callable[[dict[str, Any], dict[str, Any]], object]
"""Changes the values and the arrays of a bundle's replay."""

HOSTILE: dict[str, tuple[Edit, str]] = {
    "no sizes": (lambda values, arrays: arrays.pop("blocks.sizes"), "blocks.sizes"),
    "sizes of another dtype": (
        lambda values, arrays: arrays.update({"blocks.sizes": arrays["blocks.sizes"].astype("i8")}),
        "blocks.sizes",
    ),
    "sizes of another shape": (
        lambda values, arrays: arrays.update({"blocks.sizes": arrays["blocks.sizes"][:, None]}),
        "blocks.sizes",
    ),
    "sizes without a shape": (
        lambda values, arrays: arrays.update({"blocks.sizes": np.array(3, "u4")}),
        "not of this release",
    ),
    "sizes that do not sum up": (lambda values, arrays: arrays["blocks.sizes"].fill(3), "the sizes of its blocks"),
    "a damaged block": (lambda values, arrays: arrays["blocks.head"].fill(7), "block 0 cannot be decompressed"),
    "no open rows": (lambda values, arrays: arrays.pop("blocks.open"), "its tensors are"),
    "a layout of other rows": (lambda values, arrays: values["layout"].update(rows=9, appended=9), "its tensor"),
    "an impossible layout": (lambda values, arrays: values["layout"].update(rows=10**6), "impossible layout"),
    "blocks of other rows": (lambda values, arrays: values["blocks"].update(rows=16), "not blocks of 8 rows"),
    "no offset": (lambda values, arrays: values["blocks"].pop("offset_bytes"), "offset_bytes"),
    "a negative offset": (lambda values, arrays: values["blocks"].update(offset_bytes=-1), "offset_bytes"),
    "blocks are text": (lambda values, arrays: values.update(blocks="x"), "blocks"),
}


@pytest.mark.parametrize(("edit", "message"), HOSTILE.values(), ids=HOSTILE)
def test_an_invalid_replay_in_a_bundle_is_refused(
    edit: Edit, message: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    with open_bundle(bundle) as opened:
        about, parts = opened.about, {name: [opened.read(name)] for name in opened.container.members}
        arrays = opened.arrays(REPLAY)
    edit(about["replay"]["values"], arrays)
    path = tmp_path / "edited.seer"
    durable.write_container(path, about, {**parts, REPLAY: list(durable.tensor_pieces(REPLAY, arrays))})
    status, out, error = run("train", *PLAY, "--from", path, "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1), error
    assert str(path) in error
    assert message in error
    assert sorted(tmp_path.iterdir()) == [path]


# --- resuming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [60_000, 300_001])
def test_resume_with_another_budget_keeps_the_rows_that_fit(
    run: Run, source: Path, tmp_path: Path, budget: int
) -> None:
    path = tmp_path / "run"
    shutil.copytree(source, path)
    status, out, _ = run("resume", path, "--mem-budget", str(budget), "--total-timesteps", "80")
    assert status == 0, out
    summary = _summary(path)
    assert summary["status"] == "finished"
    assert summary["replay"]["rows"] >= 80
    assert summary["budget"]["observation_bytes_peak"] == budget


# --- bad input -------------------------------------------------------------------------------------------------


def test_the_smallest_budget_works_and_one_byte_less_does_not(run: Run, tmp_path: Path) -> None:
    status, out, error = run("train", *PLAY, "--mem-budget", "10KB", "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("seer-edge train: --mem-budget 10000 B: cannot hold one batch of 8 windows of 1 steps, ")
    smallest = int(error.split("give at least ")[1].split(" B")[0])
    for less, works in ((1, False), (0, True)):
        words = ("--mem-budget", str(smallest - less), "--run-dir", tmp_path / "run")
        status, out, error = run("train", *PLAY, *words)
        assert (status == 0, (tmp_path / "run").exists()) == (works, works), error
        assert works or f"--mem-budget {smallest - 1} B" in error
    assert _summary(tmp_path / "run")["budget"]["observation_bytes_peak"] == smallest


def test_an_unknown_store_is_refused(run: Run, tmp_path: Path) -> None:
    status, out, error = run("train", "--env", GAME, "--store", "zip", "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert "--store" in error
    assert "'zip'" in error
    assert "paper, compact" in error
    assert not (tmp_path / "run").exists()


def test_a_missing_compression_library_is_reported_with_the_extra_to_install(
    run: Run, source: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(source, unfinished)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for words in (
        ("train", *PLAY, "--run-dir", tmp_path / "run"),
        ("train", *PLAY, "--from", bundle, "--run-dir", tmp_path / "run"),
        ("resume", unfinished, "--total-timesteps", "90"),
    ):
        status, _, error = run(*words)
        assert (status, error.count("\n")) == (2, 1), error
        assert error.endswith("learning needs zstandard; pip install 'seer-edge[train]'\n")
    assert not (tmp_path / "run").exists()
    assert run("plan", *PLAY)[0] == 0
    assert run("eval", source)[0] == 0
    assert run("train", "--env", GAME, "--total-timesteps", "25", "--run-dir", tmp_path / "paper")[0] == 0
