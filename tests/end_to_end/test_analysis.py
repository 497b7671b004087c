"""Runs with --analyze keep the encoder's weights, and `analyze` writes pictures and tables of them."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from seer_edge.runs import checkpoint
from seer_edge.runs.snapshots import Snapshots
from seer_runtime import durable
from tests.end_to_end.short_presets import GAME, TASK, Run, trained_run

UP_TO_FREEZE = [0, *(-(-30 * part // 20) for part in range(1, 21))]
"""Of a run that freezes at step 30."""
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the pixel game with snapshots."""
    return trained_run(tmp_path_factory.mktemp("analyzed") / "game", "--env", GAME, "--analyze")


def newest(path: Path) -> Path:
    return max((path / "checkpoints").glob("step_*"))


def encoder_in(path: Path) -> dict[str, np.ndarray]:
    """Return the encoder of the newest checkpoint."""
    arrays = durable.read_tensors(newest(path) / checkpoint.AGENT, ("encoder.",))
    return {name.removeprefix("encoder."): array for name, array in arrays.items()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_snapshots_end_with_the_frozen_encoder(trained: Path) -> None:
    snapshots, frozen = Snapshots(trained / "analysis"), encoder_in(trained)
    assert snapshots.steps() == UP_TO_FREEZE
    shapes = {name: array.shape for name, array in frozen.items()}
    names = {name for name in durable.read_tensors(newest(trained) / checkpoint.AGENT, ("head.",)) if "sig" not in name}
    heads = {name: array.shape for name, array in durable.read_tensors(snapshots.path(30)).items() if name in names}
    last, first = snapshots.read(30, shapes, heads), snapshots.read(0, shapes, heads)
    assert {"head.hidden.weight", "head.value.bias", "head.advantage.weight"} <= last.keys()
    assert all((last[name] == frozen[name]).all() for name in frozen)
    assert any((first[name] != frozen[name]).any() for name in frozen)


def test_snapshots_change_nothing_in_the_run(trained: Path, run: Run, tmp_path: Path) -> None:
    assert run("train", "--env", GAME, "--run-dir", tmp_path / "plain")[0] == 0
    assert not (tmp_path / "plain" / "analysis").exists()
    for name in (checkpoint.AGENT, checkpoint.REPLAY, checkpoint.SESSION, checkpoint.STATE, checkpoint.ENCODER):
        assert (newest(tmp_path / "plain") / name).read_bytes() == (newest(trained) / name).read_bytes(), name


def test_an_analysis_writes_pictures_and_tables(trained: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, printed, _ = run("analyze", trained, "-o", out, "--rows", "50", "--quiet")
    assert status == 0
    assert printed.splitlines()[0] == "game: 21 snapshots, steps 0 to 30, frozen at step 30; 50 observations"
    assert printed.splitlines()[-1] == f"{out}: {len(list(out.iterdir()))} files"
    for name in ("svcca", "cka", "attention_change", "dead", "ranges", "clip_rate", "attention_game_conv-1"):
        assert (out / f"{name}.png").read_bytes().startswith(PNG)
    similarities = rows_of(out / "similarity.csv")
    assert [int(row["step"]) for row in similarities if row["layer"] == "conv 2"] == UP_TO_FREEZE[:-1]
    before_learning = [row for row in similarities if int(row["later_step"]) <= 20]
    assert {row["linear_cka"] for row in before_learning} == {"1"}
    assert {row["layer"] for row in similarities} >= {"conv 1", "head hidden", "head value", "head advantage"}
    assert any(float(row["linear_cka"]) < 1 for row in similarities)
    assert [int(row["step"]) for row in rows_of(out / "latents.csv")] == UP_TO_FREEZE
    assert float(rows_of(out / "attention_change.csv")[-1]["distance_to_last"]) == 0


def test_the_same_run_twice_gives_the_same_figures(trained: Path, run: Run, tmp_path: Path) -> None:
    assert run("analyze", trained, trained, "-o", tmp_path, "--rows", "40", "--apart", "5")[0] == 0
    rows = rows_of(tmp_path / "similarity.csv")
    assert all(int(row["later_step"]) - int(row["step"]) >= 5 for row in rows)
    of_run = {name: [{**row, "run": ""} for row in rows if row["run"] == name] for name in ("game", "game-2")}
    assert of_run["game"] == of_run["game-2"] != []


def test_layers_that_train_on_have_snapshots_to_the_end_of_the_run(run: Run, tmp_path: Path) -> None:
    """The agent is CURL + SAC, with colors and crops."""
    path, out = tmp_path / "control", tmp_path / "out"
    flags = ("--resolution", "25", "--freeze-layers", "2", "--eval-every", "never", "--analyze")
    assert run("train", "--env", TASK, *flags, "--run-dir", path)[0] == 0
    steps = Snapshots(path / "analysis").steps()
    assert (steps[0], steps[-1]) == (0, 75)
    assert set(UP_TO_FREEZE) <= set(steps)
    assert run("analyze", path, "-o", out, "--rows", "16", "--apart", "9")[0] == 0
    rows = rows_of(out / "similarity.csv")
    after = [row for row in rows if int(row["step"]) >= 30]
    assert {float(row["svcca"]) for row in after if row["layer"] in ("conv 1", "conv 2")} == {1.0}
    assert any(float(row["linear_cka"]) < 1 for row in after if row["layer"] == "critic fc")
    assert any(float(row["linear_cka"]) < 1 for row in after if row["layer"] == "actor hidden 2")
    assert not any(float(row["linear_cka"]) > 1.0001 for row in rows)
    assert (out / "attention_control_conv-4.png").exists()


def test_snapshots_of_an_earlier_version_have_layers_of_the_encoder_only(
    trained: Path, run: Run, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    for snapshot in (old / "analysis").iterdir():
        arrays = durable.read_tensors(snapshot)
        durable.write_tensors(snapshot, {name: array for name, array in arrays.items() if not name.startswith("head.")})
    assert run("analyze", old, "-o", tmp_path / "out", "--rows", "40")[0] == 0
    assert {row["layer"] for row in rows_of(tmp_path / "out" / "similarity.csv")} == {"conv 1", "conv 2"}


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--apart", "31"), ("--apart 31", "at most 30 steps apart; give that or less")),
        (("--rows", "900000000"), ("--rows 900000000: needs about", "give fewer")),
        (("--rows", "15"), ("--rows", "out of range")),
    ],
)
def test_options_that_do_not_fit_the_run_are_refused(
    flags: tuple[str, ...], parts: tuple[str, ...], trained: Path, run: Run, tmp_path: Path
) -> None:
    status, printed, errors = run("analyze", trained, "-o", tmp_path / "out", *flags)
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    assert all(part in errors for part in parts)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_analyzed_are_refused(trained: Path, run: Run, tmp_path: Path) -> None:
    plain, damaged, foreign, file = (tmp_path / name for name in ("plain", "damaged", "foreign", "file"))
    for copy in (plain, damaged):
        shutil.copytree(trained, copy)
    shutil.rmtree(plain / "analysis")
    snapshot = Snapshots(damaged / "analysis").path(30)
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    foreign.mkdir()
    file.write_text("")
    for run_dir, out, reason in (
        (plain, tmp_path / "out", f"{plain}: has no snapshots of its encoder; train with --analyze"),
        (damaged, tmp_path / "out", f"{snapshot}: damaged ("),
        (foreign, tmp_path / "out", f"{foreign}: not a run's folder"),
        (trained, file, f"-o {file}: not a folder; name a new one"),
        (trained, trained, f"-o {trained}: {trained} is a run's folder; name a folder elsewhere"),
        (trained, file / "out", f"-o {file}/out: cannot be written"),
    ):
        status, printed, errors = run("analyze", run_dir, "-o", out, "--rows", "20", "--quiet")
        assert (status, printed, errors.count("\n")) == (2, "", 1), errors
        assert errors.startswith(f"seer-edge analyze: {reason}"), errors
        assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, errors = run("analyze", trained, "-o", "out")
    assert status == 2
    assert errors == "seer-edge analyze: matplotlib is missing; pip install 'seer-edge[report]'\n"
