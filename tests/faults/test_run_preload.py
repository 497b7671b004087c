"""The faults of `test_run_disk.py` injected into system calls by a preloaded library, so that none is missed."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seer_edge.config.config import TrainConfig
from seer_edge.training.session import Session
from tests.faults import runs
from tests.faults.preload import shim
from tests.faults.test_durable_preload import expected_lines
from tests.faults.test_run_disk import NEVER, RUN_STEPS, Notes, Reference, check_run, plant, reference, short

__all__ = ["reference"]  # a fixture

ROOT = Path(__file__).parents[2]
KILLED = 0
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EROFS, KILLED)
PARTS, PER_PROCESS = 6, 40
TEN_YEARS_SECONDS = 10 * 365 * 24 * 3600
SLOW_SECONDS = 0.08


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("preload"))


# --- in a process with the shim ----------------------------------------------------------------------------


def forked(folder: Path, config: TrainConfig, prepare: runs.Prepare, variables: dict[str, str]) -> int:
    """Run in `folder`/data with the shim active from the first call; return the exit status."""
    (folder / "data").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        os.environ.update(FAULT_DIR=str(folder / "data"), FAULT_LOG=str(folder / "calls"), **variables)
        runs.become_child(folder / "log", prepare, runs.train_command, config, folder / "data/run")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_cases(work: str, cases: str) -> None:
    """Run once for each [number of the failing call, whether later ones fail too, errno]; print the exit statuses."""
    statuses = []
    for at, for_good, number in json.loads(cases):
        folder = Path(work, f"{at}-{int(for_good)}-{number}")
        variables = {"FAULT_AT": str(at), "FAULT_FOR_GOOD": str(int(for_good)), "FAULT_ERRNO": str(number)}
        prepare = functools.partial(plant, folder / "notes", NEVER, False, 0)
        statuses.append(forked(folder, short(), prepare, variables))
    print(json.dumps(statuses))


def set_back_at_20(notes: Path, send: Callable[[Any], None]) -> None:
    plant(notes, NEVER, False, 0, send)
    step = Session.step

    def stepping(session: Session) -> Any:
        report = step(session)
        if session.timestep == 20:
            before = time.time()
            os.environ["CLOCK_BACK_AT"] = "0"
            assert before - time.time() > TEN_YEARS_SECONDS - 60
        time.sleep(SLOW_SECONDS)
        return report

    Session.step = stepping  # type: ignore[method-assign]


def run_through_time(work: str) -> None:
    config = short(checkpoint_every_steps=None, checkpoint_every_seconds=1.0)
    print(json.dumps(forked(Path(work), config, functools.partial(set_back_at_20, Path(work, "notes")), {})))


# --- the tests ---------------------------------------------------------------------------------------------


def under_the_shim(library: Path, call: str, *args: object) -> Any:
    """Call the function `call` of this module in a new process with the shim; return the JSON that it prints."""
    code = f"import sys; from tests.faults import test_run_preload as t; t.{call}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, args)]
    result = subprocess.run(
        command, cwd=ROOT, env=shim.environment(library), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def calls(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Notes]:
    """The recorded system calls of an undisturbed run, and its notes."""
    work = tmp_path_factory.mktemp("calls")
    assert under_the_shim(library, "run_cases", work, json.dumps([[NEVER, False, 0]])) == [0]
    folder = work / f"{NEVER}-0-0"
    return (folder / "calls").read_text().splitlines(), Notes.of(folder / "notes")


@pytest.mark.faults
@pytest.mark.fault("none; all writing system calls of a run are recorded", promise="only `seer_runtime.durable` writes")
def test_a_run_writes_only_through_the_durable_module(calls: tuple[list[str], Notes]) -> None:
    lines, recorded = calls
    expected = [
        line for name, target, _ in recorded.steps if name != "_remove" for line in expected_lines(name, Path(target))
    ]
    assert [line for line in lines if not line.startswith("remove ")] == expected
    removed = [Path(line.removeprefix("remove ")) for line in lines if line.startswith("remove ")]
    doomed = [Path(target) for name, target, _ in recorded.steps if name == "_remove"]
    assert removed
    assert all(any(path.is_relative_to(root) for root in doomed) for path in removed)


def check_trial(folder: Path, status: int, for_good: bool, number: int, reference: Reference) -> None:
    notes, text = Notes.of(folder / "notes"), (folder / "log").read_text()
    run = folder / "data/run"
    assert "Traceback" not in text
    if number == KILLED:
        assert status == -signal.SIGKILL
    else:
        assert os.strerror(number) in text, "the failure was not reported"
        if "run folder: " not in text:
            assert status == 2
            assert for_good or not run.exists()
            return
        assert status == 75 or (status == 0 and RUN_STEPS in notes.acknowledged)
    if run.exists():
        check_run(run, notes.acknowledged, reference)


def cases_of(lines: list[str]) -> list[tuple[int, bool, int]]:
    """Return the faults to inject. Of consecutive equal calls on one file only the first and the last are used."""
    inner = {at for at in range(1, len(lines) - 1) if lines[at - 1] == lines[at] == lines[at + 1]}
    places = [at for at in range(len(lines)) if at not in inner]
    return [(at, kind % 2 == 1, ERRNOS[(at + kind) % 4]) for at in places for kind in (0, 1)]


@pytest.mark.fault(
    "each writing system call of a run fails, once or from then on, or kills the process",
    promise="reported; no acknowledged checkpoint is lost; `resume` reaches the same end",
)
@pytest.mark.faults
@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_survives_every_failing_call(
    part: int,
    library: Path,
    calls: tuple[list[str], Notes],
    reference: Reference,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    cases = cases_of(calls[0])[part::PARTS]
    pieces = [cases[begin : begin + PER_PROCESS] for begin in range(0, len(cases), PER_PROCESS)]
    failures = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for piece, statuses in zip(
            pieces,
            pool.map(lambda piece: under_the_shim(library, "run_cases", tmp_path, json.dumps(piece)), pieces),
            strict=True,
        ):
            for (at, for_good, number), status in zip(piece, statuses, strict=True):
                folder = tmp_path / f"{at}-{int(for_good)}-{number}"
                try:
                    check_trial(folder, status, for_good, number, reference)
                except AssertionError as error:
                    failures.append(f"{folder.name} {calls[0][at]}\n{(folder / 'log').read_text()}{error}")
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures[:5])
    record_property("trials", len(cases))


@pytest.mark.faults
@pytest.mark.fault(
    "the system clock is set back ten years during a run",
    promise="parameters and replay are the same; timed checkpoints continue",
)
def test_a_run_does_not_depend_on_the_system_clock(library: Path, reference: Reference, tmp_path: Path) -> None:
    assert under_the_shim(library, "run_through_time", tmp_path) == 0, (tmp_path / "log").read_text()
    notes = Notes.of(tmp_path / "notes")
    assert notes.acknowledged[RUN_STEPS] == reference.undisturbed.acknowledged[RUN_STEPS]
    at_intervals = sorted(set(notes.acknowledged) - {0, 30, RUN_STEPS})
    assert len([step for step in at_intervals if step > 20]) >= 2
