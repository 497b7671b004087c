"""Damage to the files and folders of a run."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from tests.faults import runs
from tests.faults.test_resume import stop_at
from tests.faults.test_run_disk import short

SECONDS = 60
CANARY = "nobody may read this"


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps with TensorBoard events, stopped at step 55, with the checkpoints of 50 and 55."""
    folder = tmp_path_factory.mktemp("stopped")
    stop = functools.partial(stop_at, (55,))
    child = runs.start(folder / "log", runs.train_command, short(tensorboard=True), folder / "run", prepare=stop)
    assert child.join() == 143, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(scope="session")
def finished(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, resumed to its end."""
    path = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(stopped, path)
    assert run_command(path, "resume", path)[0] == 0
    return path


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def run_command(run: Path, *words: str | Path) -> tuple[int, str]:
    """Run the command; return its exit status and output. It must neither hang nor print a traceback."""
    log = run.with_name("log")
    log.unlink(missing_ok=True)
    status = runs.start(log, runs.command, *words).join(SECONDS)
    text = log.read_text()
    assert "Traceback" not in text, text
    return status, text


def rejection(run: Path, *words: str | Path) -> str:
    """Run the command and return the line with which it rejects its input."""
    status, text = run_command(run, *words)
    last = text.splitlines()[-1]
    assert status == 2, text
    assert last.startswith(f"seer-edge {words[0]}: "), text
    return last


# --- damage ------------------------------------------------------------------------------------------------


def link(file: Path) -> None:
    """Replace the file by a link to the canary, a file or folder outside the run."""
    gone(file)
    target = file.parents[1] / "canary"
    if file.suffix:
        target.write_text(CANARY)
    else:
        target.mkdir()
        (target / "inside").write_text(CANARY)
    file.symlink_to(target)


def pipe(file: Path) -> None:
    gone(file)
    os.mkfifo(file)


def folder(file: Path) -> None:
    gone(file)
    file.mkdir()


def garbage(file: Path) -> None:
    gone(file)
    file.write_bytes(os.urandom(2000))


def empty(file: Path) -> None:
    gone(file)
    file.touch()


def gone(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def every(damages: tuple[Callable[[Path], None], ...], *sample: Callable[[Path], None]) -> list[Any]:
    """Return all damages, those outside the `sample` only for `make test-faults`."""
    return [damage if damage in sample else pytest.param(damage, marks=pytest.mark.faults) for damage in damages]


DAMAGES = (link, pipe, folder, garbage, empty, gone, cut, flipped)
FILES = {
    "config.json": "config.json: differs from the checkpoint; rewritten from the checkpoint",
    "encoder.onnx": "encoder.onnx: differs from the checkpoint; rewritten from the checkpoint",
    "progress.csv": "progress.csv: its rows up to step 50 were changed since they were written",
    "episodes.csv": "",  # no episode has ended by then, so no row is lost
    "summary.json": "",  # written often, never read
}
FOLDERS = ("checkpoints", "tb")


def check_canary_is_unchanged(run: Path) -> None:
    canary = run.with_name("canary")
    if canary.exists():
        files = [canary] if canary.is_file() else list(canary.iterdir())
        assert [file.read_text() for file in files] == [CANARY]


@pytest.mark.fault(
    "each file of a run's folder is a link, a pipe, a folder, garbage, empty, missing, truncated or has a bit flipped",
    promise="`resume` reports it and rewrites the file, or rejects it in one line; link targets are "
    "neither read nor changed; `eval` and `train --from` work",
)
@pytest.mark.parametrize("damage", every(DAMAGES, flipped, link))
def test_damaged_files_are_reported_and_rewritten(
    damage: Callable[[Path], None], run: Path, finished: Path, record_property: Callable[[str, object], None]
) -> None:
    for name in FILES:
        damage(run / name)
    assert run_command(run, "eval", run)[0] == 0
    assert not (run / "tb").is_symlink()
    if damage is folder:
        for name in ("config.json", "progress.csv", "episodes.csv", "summary.json", "encoder.onnx"):
            assert f"{name}: is a folder, but must be a file; move it away" in rejection(run, "resume", run)
            (run / name).rmdir()
    status, text = run_command(run, "resume", run)
    assert status == 0, text
    check_canary_is_unchanged(run)
    assert CANARY not in text
    # A flipped bit in progress.csv may be just another number.
    expected = {name: line for name, line in FILES.items() if not (name == "progress.csv" and damage is flipped)}
    assert all(line in text for line in expected.values()), text
    assert runs.fingerprint(runs.newest(run)) == runs.fingerprint(runs.newest(finished))
    assert (run / "encoder.onnx").read_bytes() == (finished / "encoder.onnx").read_bytes()
    assert json.loads((run / "config.json").read_text()) == json.loads((finished / "config.json").read_text())
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert (run / "progress.csv").read_text().splitlines()[-1].startswith("60,")
    record_property("trials", len(FILES))


@pytest.mark.fault("damaged files of a finished run", promise="reported and rewritten")
def test_damaged_files_of_a_finished_run_are_rewritten(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    flipped(run / "encoder.onnx")
    cut(run / "config.json")
    status, text = run_command(run, "resume", run)
    assert status == 0
    sound = f"{run}: finished at step 60; step_0000000060 is undamaged"
    assert text.splitlines() == [
        f"warning: {run}/{FILES['config.json']}",
        f"warning: {run}/{FILES['encoder.onnx']}",
        sound,
    ]
    assert (run / "encoder.onnx").read_bytes() == (finished / "encoder.onnx").read_bytes()
    assert run_command(run, "resume", run)[1] == f"{sound}\n"


@pytest.mark.fault(
    "`checkpoints/` or `tb/` is a link, a pipe, a file or missing",
    promise="rejected in one line; links are not followed",
)
@pytest.mark.parametrize("damage", every((link, pipe, garbage, empty, gone), link))
@pytest.mark.parametrize("name", FOLDERS)
def test_replaced_folders_are_rejected_and_links_not_followed(
    name: str, damage: Callable[[Path], None], run: Path
) -> None:
    damage(run / name)
    if name == "tb":
        assert run_command(run, "eval", run)[0] == 0
        if damage is gone:
            assert run_command(run, "resume", run)[0] == 0
        else:
            assert f"{run / name}: not a folder; move it away" in rejection(run, "resume", run)
    else:
        for words in (("resume", run), ("eval", run), importing(run)):
            assert CANARY not in rejection(run, *words)
    check_canary_is_unchanged(run)


def importing(run: Path) -> tuple[str | Path, ...]:
    """Return the words of `train` with the encoder of `run`."""
    into = run.with_name("taker")
    flags = ("--mem-budget", "1MB", "--total-timesteps", "5", "--eval-episodes", "1", "--run-dir", into)
    return ("train", "--env", "Alien", "--from", run, "--take", "encoder", *flags)


# --- damaged checkpoints -----------------------------------------------------------------------------------


@pytest.mark.fault("no checkpoint is sound, or there is none", promise="each is listed with its reason; exit 2")
@pytest.mark.parametrize("command", ["resume", "eval", "export", "train"])
def test_commands_reject_a_run_without_a_sound_checkpoint(command: str, run: Path) -> None:
    checkpoints = run / "checkpoints"
    words = importing(run) if command == "train" else (command, run)
    words += ("-o", run.with_name("p.seer")) if command == "export" else ()
    older, newer = sorted(checkpoints.iterdir())
    flipped(older / "replay.safetensors")
    (newer / "state.json").unlink()
    before = sorted(run.rglob("*"))
    line = rejection(run, *words)
    assert f"{older.name}: 'replay.safetensors'" in line
    assert f"{newer.name}: " in line
    assert "state.json" in line
    assert f"start a new one with train; its flags are in {run / 'config.json'}" in line
    assert sorted(run.rglob("*")) == before
    shutil.rmtree(older)
    shutil.rmtree(newer)
    assert "no checkpoint was published here; this run cannot continue" in rejection(run, *words)
    shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").write_text("x")
    assert str(run) in rejection(run, *words)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    assert not run.with_name("taker").exists()


@pytest.mark.fault(
    "the newest checkpoint is damaged", promise="reported; the run continues from the one before to the same end"
)
@pytest.mark.parametrize("damage", every(DAMAGES, flipped, link))
def test_commands_use_the_newest_sound_checkpoint(
    damage: Callable[[Path], None], run: Path, finished: Path, record_property: Callable[[str, object], None]
) -> None:
    newer = runs.newest(run)
    names = sorted(file.name for file in newer.iterdir())
    for name in names:
        spare = run.with_name("spare")
        shutil.copytree(newer, spare)
        damage(newer / name)
        found = durable.newest_checkpoint(run / "checkpoints")
        assert found.path.name == "step_0000000050"
        assert [path for path, _ in found.skipped] == [newer]
        if name == names[0]:
            assert f"skipped {newer.name}: " in run_command(run, "eval", run)[1]
        shutil.rmtree(newer)
        spare.rename(newer)
    damage(newer / names[-1])
    status, text = run_command(run, "resume", run)
    assert status == 0, text
    assert f"skipped {newer.name}: " in text
    assert runs.fingerprint(runs.newest(run)) == runs.fingerprint(runs.newest(finished))
    record_property("trials", len(names))
