"""Faults in the system calls of `seer_runtime.durable`, injected by a preloaded library."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from seer_runtime.durable import files
from tests.faults.preload import shim
from tests.runtime.durable_faults import ERRNOS, STEPS, load, publish

ROOT = Path(__file__).parents[2]
PUBLICATIONS = [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (4, "e")]
KILLED = 0
FAILURES = {
    **{f"{name} {how}": (number, how == "for good") for name, number in ERRNOS.items() for how in ("once", "for good")},
    "SIGKILL": (KILLED, True),
}
TEN_YEARS = 10 * 365 * 24 * 3600


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("preload"))


def under_the_shim(library: Path, call: str, *args: object) -> Any:
    """Call the function `call` of this module in a new process with the shim; return the JSON that it prints."""
    code = f"import sys; from tests.faults import test_durable_preload as t; t.{call}(*sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        env=shim.environment(library),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    return json.loads(result.stdout)


def in_child(action: Callable[[], None], **variables: object) -> int:
    """Run `action` in a forked child with these variables; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update({name: str(value) for name, value in variables.items()})
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder: Path, acknowledged: Path) -> None:
    """Publish all checkpoints, continue after a failure, and record each that was acknowledged."""
    note = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, (timestep, mark) in enumerate(PUBLICATIONS):
        try:
            publish(folder, timestep, mark=mark)
            os.write(note, bytes([number]))
        except OSError:
            continue


def fail_everywhere(work: str, number: str, for_good: str, every: str) -> None:
    """Fail every `every`-th call, one in each case, with error `number`; check that nothing acknowledged is lost."""
    folder, acknowledged, log = Path(work, "data", "checkpoints"), Path(work, "acknowledged"), Path(work, "log")
    cases, at = 0, 0
    while True:
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        log.unlink(missing_ok=True)
        status = in_child(
            lambda: run(folder, acknowledged),
            FAULT_DIR=folder.parent,
            FAULT_AT=at,
            FAULT_ERRNO=number,
            FAULT_FOR_GOOD=for_good,
            FAULT_LOG=log,
        )
        done = acknowledged.read_bytes()
        if status == 0 and len(log.read_text().splitlines()) <= at:
            assert len(done) == len(PUBLICATIONS)
            break
        assert status == (-signal.SIGKILL if int(number) == KILLED else 0), at
        if done:
            assert PUBLICATIONS.index(load(folder)) >= done[-1], at
        if int(number) != KILLED and for_good == "0":
            # At most the publication that the fault hit is missing. A later one cleans up after it.
            assert len(done) >= len(PUBLICATIONS) - 1, at
            if done[-1] == len(PUBLICATIONS) - 1:
                assert load(folder) == PUBLICATIONS[-1]
        publish(folder, 5, mark="on")
        assert load(folder) == (5, "on")
        cases += 1
        at += int(every)
    print(json.dumps(cases))


@pytest.mark.fault(
    "each writing system call fails once, fails from then on, or kills the process",
    promise="no acknowledged checkpoint is lost",
)
@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.faults)])
@pytest.mark.parametrize("failure", FAILURES)
def test_checkpoints_survive_every_failing_call(
    tmp_path: Path, library: Path, record_property: Callable[[str, object], None], failure: str, every: int
) -> None:
    number, for_good = FAILURES[failure]
    cases = under_the_shim(library, "fail_everywhere", tmp_path, number, int(for_good), every)
    record_property("trials", cases)
    # Each publication makes at least fourteen calls, and fewer once all calls fail.
    assert cases >= 14 * len(PUBLICATIONS) // every


def write_all_kinds(folder: Path, past_the_module: bool) -> None:
    def write(new: Path) -> None:
        durable.write_tensors(new / "x.safetensors", {"x": np.arange(5), "y": np.ones(3, np.uint8)})
        durable.write_json(new / "state.json", {"a": 1})
        if past_the_module:
            (new / "plain").write_text("x")

    for timestep in (1, 2, 3, 3):
        durable.publish_checkpoint(folder / "checkpoints", timestep, write)
    durable.write_json(folder / "summary.json", 1)
    with durable.Appender(folder / "progress.csv") as appender:
        appender.append(b"step\n")
        appender.sync()


def expected_lines(step: str, target: Any) -> list[str]:
    """Return the system calls of a step, as the shim logs them."""
    path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
    if step == "_remove":
        return [f"remove {gone}" for gone in [*path.rglob("*"), path]]
    call = {"_create": "open", "_open_append": "open", "_make_folder": "mkdir", "_fsync_folder": "fsync"}.get(
        step, step[1:]
    )
    return [f"{call} {path}"]


def compare_with_the_steps(work: str, past_the_module: str) -> None:
    """Compare the recorded system calls with the module's steps; print calls outside the steps and the results."""
    folder, log, steps = Path(work, "data"), Path(work, "log"), Path(work, "steps")
    folder.mkdir()

    def child() -> None:
        lines: list[str] = []

        def noting(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                # The order of removals depends on the file system, so they are compared sorted.
                lines.extend(expected_lines(name, args[0]))
                return step(*args)

            return noted

        for name in STEPS:
            setattr(files, name, noting(name, getattr(files, name)))
        write_all_kinds(folder, past_the_module == "1")
        steps.write_text("\n".join(lines))

    assert in_child(child, FAULT_DIR=folder, FAULT_LOG=log) == 0
    seen, noted = log.read_text().splitlines(), steps.read_text().splitlines()
    removed = [[line for line in lines if line.startswith("remove")] for lines in (seen, noted)]
    others = [[line for line in lines if not line.startswith("remove")] for lines in (seen, noted)]
    past = list(others[0])
    for line in others[1]:
        if line in past:
            past.remove(line)
    same_order = [line for line in others[0] if line not in past] == others[1]
    print(json.dumps([past, same_order, sorted(removed[0]) == sorted(removed[1]), len(others[1]), len(removed[1])]))


@pytest.mark.fault(
    "none; all writing system calls of a process are recorded", promise="only `seer_runtime.durable` writes"
)
def test_the_modules_steps_are_the_only_writing_calls(tmp_path: Path, library: Path) -> None:
    past, same_order, same_removals, calls, removals = under_the_shim(library, "compare_with_the_steps", tmp_path, 0)
    assert past == []
    assert same_order
    assert same_removals
    assert calls > 50
    assert removals > 5


def test_the_shim_records_writes_outside_the_module(tmp_path: Path, library: Path) -> None:
    past, *_ = under_the_shim(library, "compare_with_the_steps", tmp_path, 1)
    assert len(past) == 2 * 4
    assert all(line.endswith("/plain") for line in past)


def set_clock_back(work: str, at: str) -> None:
    folder, acknowledged, clock = Path(work, "data"), Path(work, "acknowledged"), Path(work, "clock")

    def child() -> None:
        readings = [time.time() for _ in range(int(at))]
        run(folder, acknowledged)
        readings += [time.time() for _ in range(2)]
        clock.write_text(json.dumps(readings))

    assert in_child(child, CLOCK_BACK_AT=at) == 0
    readings = json.loads(clock.read_text())
    print(json.dumps([readings[0] - readings[-1], len(acknowledged.read_bytes()), load(folder)]))


@pytest.mark.fault(
    "the clock is set back ten years between two checkpoints", promise="the newest checkpoint stays the newest"
)
def test_the_newest_checkpoint_does_not_depend_on_the_clock(tmp_path: Path, library: Path) -> None:
    back, acknowledged, newest = under_the_shim(library, "set_clock_back", tmp_path, 3)
    assert abs(back - TEN_YEARS) < 3600
    assert acknowledged == len(PUBLICATIONS)
    assert tuple(newest) == PUBLICATIONS[-1]
