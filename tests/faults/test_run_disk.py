"""Faults in each file system step of a whole run."""

import errno
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import seer_edge.training.run
from seer_edge.config.config import TrainConfig
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import FreezeRefusedError
from seer_edge.training.session import Session
from seer_runtime import durable
from seer_runtime.durable import files
from tests.faults import runs
from tests.runtime.durable_faults import ERRNOS, STEPS

NEVER = 10**9
PARTS = 6
SAMPLE = 6
RUN_STEPS, FREEZE_AT = 60, 30


def short(**changes: Any) -> TrainConfig:
    """Return a run with 60 steps, a ring that wraps, checkpoints every 10 steps, a freeze at 30 and an evaluation."""
    given = {"total_timesteps": RUN_STEPS, "freeze_at": FREEZE_AT, "eval_every": RUN_STEPS, "log_every": 10}
    return runs.alien(**{**given, "checkpoint_every_steps": 10, "mem_budget_bytes": 25 * 7056, **changes})


# --- in the run's process ----------------------------------------------------------------------------------


def plant(notes: Path, at: int, for_good: bool, number: int, send: Callable[[Any], None]) -> None:
    """Fail file system step `at`, and with `for_good` all later ones; write each step and checkpoint to `notes`."""
    output = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def note(*entry: object) -> None:
        os.write(output, f"{json.dumps(entry)}\n".encode())

    def guard(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any) -> Any:
            nonlocal count
            fails = count == at or (for_good and count > at)
            count += 1
            target = Path(f"/proc/self/fd/{args[0]}").readlink() if isinstance(args[0], int) else args[0]
            note(name, str(target), fails)
            if fails:
                raise OSError(number, f"injected into {name}")
            return step(*args)

        return failing

    for name in STEPS:
        setattr(files, name, guard(name, getattr(files, name)))
    publish = durable.publish_checkpoint

    def publishing(folder: Path, timestep: int, write: Callable[[Path], None], **keep: Any) -> Path:
        note("begin", timestep, False)
        path = publish(folder, timestep, write, **keep)
        note("acknowledged", timestep, runs.fingerprint(path))
        return path

    durable.publish_checkpoint = publishing


def refuse_the_freeze(notes: Path, send: Callable[[Any], None]) -> None:
    def refuse(session: Session, *unused: Any) -> None:
        session.flush_updates()  # as a freeze does before it can fail
        raise FreezeRefusedError("no freeze")

    plant(notes, NEVER, False, 0, send)
    seer_edge.training.run.freeze = refuse  # type: ignore[assignment]


# --- checks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notes:
    """The notes of a run in order: [step, path, whether it failed], and its checkpoints."""

    entries: list[Any]

    @classmethod
    def of(cls, notes: Path) -> "Notes":
        return cls([json.loads(line) for line in notes.read_text().splitlines()])

    @property
    def steps(self) -> list[Any]:
        return [entry for entry in self.entries if entry[0] in STEPS]

    @property
    def acknowledged(self) -> dict[int, Any]:
        return {timestep: print_ for kind, timestep, print_ in self.entries if kind == "acknowledged"}

    @property
    def failed(self) -> set[str]:
        return {name for name, _, fails in self.steps if fails}

    def check_syncs(self) -> None:
        """Check that data whose sync failed is not synced again, renamed or acknowledged."""
        lost: set[str] = set()
        whole = True
        for name, target, fails in self.entries:
            if name == "begin":
                whole = True
            elif name == "acknowledged":
                assert whole, f"step {target} was acknowledged after a failure"
            elif name in ("_fsync", "_fsync_folder", "_rename"):
                assert target not in lost or name == "_fsync_folder", f"{name} of {target}, which could not be synced"
                if fails and name != "_rename":
                    lost.add(target)
            elif name in ("_make_folder", "_create", "_open_append"):
                lost.discard(target)
            whole = whole and fails is not True


@dataclass(frozen=True)
class Reference:
    """A configuration, the notes of its undisturbed run, and of one whose freeze is refused."""

    config: TrainConfig
    undisturbed: Notes
    refused: Notes

    def hashes(self, path: Path) -> dict[str, str]:
        """Return the expected hashes of the checkpoint at `path`."""
        timestep = int(path.name.removeprefix("step_"))
        refused = json.loads((path / checkpoint.RUN).read_text())["outcome"]["freeze_refused"] is not None
        assert not refused or timestep > FREEZE_AT - 1
        return (self.refused if refused else self.undisturbed).acknowledged[timestep]  # type: ignore[no-any-return]


def reference_of(config: TrainConfig, folder: Path) -> Reference:
    """Run `config` without a fault, and with a refused freeze."""

    def noted(name: str, prepare: Callable[..., None], *args: Any) -> Notes:
        notes, log = folder / f"{name}.notes", folder / f"{name}.log"
        child = runs.start(
            log, runs.train_command, config, folder / name, prepare=functools.partial(prepare, notes, *args)
        )
        assert child.join() == 0, log.read_text()
        return Notes.of(notes)

    return Reference(config, noted("undisturbed", plant, NEVER, False, 0), noted("refused", refuse_the_freeze))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference_of(short(), tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    config = short(store="compact", latent_codec="uint8")
    return reference_of(config, tmp_path_factory.mktemp("compact"))


def check_run(path: Path, acknowledged: dict[int, Any], reference: Reference) -> None:
    """Check before and after `resume` that acknowledged checkpoints are intact and the budget holds."""
    if acknowledged:
        newest = durable.newest_checkpoint(path / "checkpoints").path
        assert newest.name >= f"step_{max(acknowledged):010d}"
    for saved in (path / "checkpoints").glob("step_*"):
        frozen = json.loads((saved / checkpoint.STATE).read_text())["frozen"]
        # A checkpoint after a failure right after the freeze has no counterpart: the usual one is from before it.
        if not (frozen and saved.name == f"step_{FREEZE_AT:010d}"):
            assert runs.fingerprint(saved) == reference.hashes(saved), saved.name
    if (path / "summary.json").exists():
        budget = json.loads((path / "summary.json").read_text())["budget"]
        assert 0 < budget["observation_bytes_peak"] <= budget["limit_bytes"] == 25 * 7056
    check_resume(path, reference)


def check_resume(path: Path, reference: Reference) -> None:
    """Check that `resume`, without the fault, reaches the same end."""
    log = path.with_name("resume.log")
    anything = any((path / "checkpoints").glob("step_*"))
    status = runs.start(log, runs.command, "resume", path).join()
    text = log.read_text()
    assert "Traceback" not in text, text
    if not anything and not (path / "config.json").exists():
        assert status == 2
        assert "give the --run-dir of a run" in text
        return
    assert status == 0, text
    assert anything or "starts at step 0" in text
    newest = durable.newest_checkpoint(path / "checkpoints")
    assert newest.path.name == f"step_{RUN_STEPS:010d}"
    assert not newest.skipped
    assert runs.fingerprint(newest.path) == reference.hashes(newest.path)


def trial(folder: Path, reference: Reference, at: int, for_good: bool, number: int) -> None:
    """Run with one fault and check the result. Raises AssertionError with the full context."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, log, notes = folder / "run", folder / "log", folder / "notes"
    prepare = functools.partial(plant, notes, at, for_good, number)
    status = runs.start(log, runs.train_command, reference.config, path, prepare=prepare).join()
    noted, text = Notes.of(notes), log.read_text()
    context = f"step {at} {'for good' if for_good else 'once'}, {errno.errorcode[number]}: {noted.steps[at]}\n{text}"
    try:
        assert "Traceback" not in text
        assert any(f"injected into {name}" in text for name in noted.failed), "the failure was not reported"
        noted.check_syncs()
        if "run folder: " in text:
            assert status == 75 or (status == 0 and RUN_STEPS in noted.acknowledged)
            check_run(path, noted.acknowledged, reference)
        else:
            assert status == 2
            assert for_good or not path.exists()
    except AssertionError as error:
        raise AssertionError(f"{context}{error}") from error


def cases(steps: list[Any], every: bool) -> Iterator[tuple[int, bool, int]]:
    """Yield all faults, or a sample with each error and both kinds.

    Of consecutive writes to one file only the first and the last are used.
    """
    same = [before[:2] == after[:2] for before, after in itertools.pairwise(steps)]
    places = [at for at in range(len(steps)) if not (0 < at < len(same) and same[at - 1] and same[at])]
    names = [name for name, *_ in steps]
    numbers = itertools.cycle(ERRNOS.values())
    if every:
        yield from ((at, for_good, next(numbers)) for at in places for for_good in (False, True))
        return
    yield names.index("_rename") + 1, False, next(numbers)  # config.json is in place, but may not survive a power loss
    yield len(steps) - 2, False, next(numbers)  # the last write of summary.json
    for index in range(SAMPLE):
        yield places[(2 * index + 1) * len(places) // (2 * SAMPLE)], index % 2 == 1, next(numbers)


EVERY = pytest.mark.fault(
    "each file system step of a run fails, once or from then on, with ENOSPC, EIO or EROFS",
    promise="reported; the run continues or exits 75; acknowledged checkpoints are intact; `resume` "
    "reaches the same end; no data whose sync failed counts as synced",
)
ALL_PARTS = [pytest.param(part, marks=pytest.mark.faults) for part in range(PARTS)]


def check_cases(chosen: list[tuple[int, bool, int]], reference: Reference, folder: Path) -> None:
    assert set(reference.undisturbed.acknowledged) == {0, 10, 20, 30, 40, 50, 60}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        trials = [pool.submit(trial, folder / str(at), reference, *case) for at, case in enumerate(chosen)]
    failures = [str(error) for error in (trial.exception() for trial in trials) if error is not None]
    assert not failures, f"{len(failures)} of {len(chosen)}:\n" + "\n".join(failures[:5])


@EVERY
@pytest.mark.parametrize("part", [None, *ALL_PARTS])
def test_a_run_survives_every_file_system_fault(
    part: int | None, reference: Reference, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = reference.undisturbed.steps
    chosen = list(cases(steps, every=False))[::3] if part is None else list(cases(steps, every=True))[part::PARTS]
    check_cases(chosen, reference, tmp_path)
    record_property("trials", len(chosen))


@EVERY
@pytest.mark.parametrize("part", [None, *ALL_PARTS])
def test_a_run_of_compressed_rows_survives_every_file_system_fault(
    part: int | None, compact: Reference, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    steps = compact.undisturbed.steps
    chosen = list(cases(steps, every=False))[3::3] if part is None else list(cases(steps, every=True))[part::PARTS]
    check_cases(chosen, compact, tmp_path)
    record_property("trials", len(chosen))


@pytest.mark.fault(
    "the sync of `progress.csv` fails once",
    promise="one checkpoint is missing; the next one is complete, because the file is rewritten",
)
@pytest.mark.parametrize("number", [2, 4], ids=["before the freeze", "before another row"])
def test_a_failed_sync_of_progress_csv_costs_one_checkpoint(number: int, reference: Reference, tmp_path: Path) -> None:
    syncs = [name == "_fsync" and target.endswith("progress.csv") for name, target, _ in reference.undisturbed.steps]
    at = [step for step, is_sync in enumerate(syncs) if is_sync][number]
    trial(tmp_path / "trial", reference, at, False, errno.EIO)
    noted = Notes.of(tmp_path / "trial/notes")
    assert set(noted.acknowledged) == {0, 10, 20, 30, 40, 50, 60} - {10 * number}
    assert len((tmp_path / "trial/run/progress.csv").read_text().splitlines()) == 1 + 6
