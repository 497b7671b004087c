"""Failing allocations and memory limits that are reached during a run."""

import ctypes
import functools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seer_edge.runs import checkpoint
from seer_edge.training.session import Session, StepReport
from seer_runtime.system.process import rss_bytes
from seer_runtime.system.units import format_size
from tests.faults import runs

BLOCKS = [2**size for size in (24, 20, 16, 12)]


def c_heap() -> tuple[Callable[[int], int | None], Callable[[int], None]]:
    """Return the C library's `malloc` and `free`."""
    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.argtypes = (ctypes.c_void_p,)
    return malloc, free


def starve(spare_bytes: int) -> None:
    """Limit this process to `spare_bytes` beyond its present memory, and use up the free memory of its heap."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    malloc, free = c_heap()
    taken = []
    for size in BLOCKS:
        while (address := malloc(size)) is not None:
            taken.append((size, address))
    freed = 0
    while freed < spare_bytes:
        size, address = taken.pop()
        free(address)
        freed += size


def starve_at(place: str, number: int, spare_bytes: int, send: Any) -> None:
    def act() -> None:
        send(number)
        starve(spare_bytes)

    runs.at_call(place, number, act)


@pytest.fixture
def alien(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.undisturbed(tmp_path_factory)


@pytest.fixture
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.undisturbed(tmp_path_factory, runs.compact)


def check_resume(path: Path, log: Path, alien: Path, *words: str) -> None:
    """Check that `resume` ends as the undisturbed run does."""
    assert runs.start(log, runs.command, "resume", path, *words).join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))
    assert runs.results(path) == runs.results(alien)


def check_it_stopped(path: Path, log: Path, reason: str) -> None:
    text = log.read_text()
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("seer-edge train: "), text
    assert reason in text.splitlines()[-1]
    saved = checkpoint.newest(path / "checkpoints")
    assert saved.skipped == ()


OUT = pytest.mark.fault(
    "the next allocation fails (RLIMIT_AS) while learning or in the conversion",
    promise="exit 75 with one line; the last checkpoint loads and `resume` ends as the undisturbed run does",
)
KB = 1024


@OUT
@pytest.mark.parametrize(
    ("step", "spare_bytes"),
    [
        pytest.param(47, 4 * KB, marks=pytest.mark.faults),
        *(
            pytest.param(step, spare, marks=pytest.mark.faults)
            for step in (23, 60, 89, 131)
            for spare in (64 * KB, 256 * KB)
        ),
    ],
)
def test_a_run_survives_a_failed_allocation_in_a_step(step: int, spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(
        log,
        runs.train_command,
        runs.alien(),
        path,
        prepare=functools.partial(starve_at, "seer_edge.training.session:Session.step", step, spare_bytes),
    )
    assert child.join() == 75, log.read_text()
    assert child.messages() == [step]
    check_it_stopped(path, log, "out of memory (")
    assert runs.newest(path).name == f"step_{(step - 1) // 20 * 20:010d}"
    check_resume(path, log, alien)


@OUT
@pytest.mark.parametrize("spare_bytes", [4 * KB, pytest.param(256 * KB, marks=pytest.mark.faults)])
def test_a_run_survives_a_failed_allocation_in_the_conversion(spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.session:Session.switch_to_latents", 1, spare_bytes)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    assert child.messages() == [1]
    check_it_stopped(path, log, "the conversion at step 90 failed: ")
    assert runs.newest(path).name == "step_0000000090"
    check_resume(path, log, alien)


@OUT
@pytest.mark.faults
@pytest.mark.parametrize("spare_bytes", [4 * KB, 64 * KB, 256 * KB, 1024 * KB])
@pytest.mark.parametrize("step", [31, 47, 131])
def test_a_run_of_compressed_rows_survives_a_failed_allocation_in_a_step(
    step: int, spare_bytes: int, compact: Path, tmp_path: Path
) -> None:
    """Compressing and decompressing a block allocate memory too."""
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.session:Session.step", step, spare_bytes)
    child = runs.start(log, runs.train_command, runs.compact(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    check_it_stopped(path, log, "out of memory (")
    check_resume(path, log, compact)


@OUT
@pytest.mark.faults
@pytest.mark.parametrize("spare_bytes", [4 * KB, 256 * KB])
def test_a_run_survives_a_failed_allocation_in_the_conversion_of_blocks(
    spare_bytes: int, compact: Path, tmp_path: Path
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.session:Session.switch_to_latents", 1, spare_bytes)
    child = runs.start(log, runs.train_command, runs.compact(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    check_it_stopped(path, log, "")  # the conversion needs few allocations and may end
    check_resume(path, log, compact)


@pytest.mark.fault(
    "an allocation fails (RLIMIT_AS) while the freeze is prepared",
    promise="the freeze is refused and nothing is changed; a later failure ends with exit 75",
)
@pytest.mark.faults
@pytest.mark.parametrize("spare_bytes", [4 * KB, 256 * KB, 1024 * KB])
def test_a_failed_allocation_refuses_the_freeze(spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.freeze:_prepare", 1, spare_bytes)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    assert "no freeze at step 90: " in log.read_text()
    check_it_stopped(path, log, "")
    assert not (path / "encoder.onnx").exists()
    assert runs.newest(path).name == "step_0000000080"
    check_resume(path, log, alien)


@OUT
@pytest.mark.faults
def test_a_run_survives_a_failed_allocation_at_the_start_of_the_freeze(alien: Path, tmp_path: Path) -> None:
    """Even the thread that watches RSS cannot start."""
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.run:freeze", 1, 4 * KB)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    check_resume(path, log, alien)


# --- limits ------------------------------------------------------------------------------------------------

LIMIT_BYTES = 600_000_000
MIB = 2**20


def grow(step: int, growth_bytes: int, send: Any) -> None:
    """In the child, allocate `growth_bytes` more at each step from `step` on."""
    make, held = Session.step, []

    def stepping(session: Session) -> StepReport:
        if session.timestep >= step:
            held.append(bytearray(growth_bytes))
            send(rss_bytes())
        return make(session)

    Session.step = stepping  # type: ignore[method-assign]


def waste(step: int, size_bytes: int, send: Any) -> None:
    """In the child, before `step`, fill the C heap and free it except for the last block, so that RSS stays high."""

    def act() -> None:
        malloc, free = c_heap()
        blocks = [malloc(64 * KB) for _ in range(size_bytes // (64 * KB))]
        for block in blocks:
            ctypes.memset(block, 1, 64 * KB)
        for block in blocks[:-1]:
            free(block)
        send(rss_bytes())

    runs.at_call("seer_edge.training.session:Session.step", step, act)


WARNING = "after freeing what was not in use"


@pytest.mark.fault(
    "RSS reaches `--rss-limit` before or after the freeze",
    promise="warning at 95 %; checkpoint and exit 75 at 100 %; `resume` with a higher limit ends as the "
    "undisturbed run does",
)
@pytest.mark.parametrize("step", [47, pytest.param(123, marks=pytest.mark.faults)])
def test_a_run_stops_with_a_checkpoint_at_its_rss_limit(step: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(rss_limit_bytes=LIMIT_BYTES)
    child = runs.start(log, runs.train_command, config, path, prepare=functools.partial(grow, step, 20 * MIB))
    assert child.join() == 75, log.read_text()
    sizes = child.messages()
    check_it_stopped(path, log, "is above the limit of 600.0 MB at step ")
    # One warning at 95 %, one at the stop.
    assert log.read_text().count(WARNING) == 2
    assert sizes[-2] < LIMIT_BYTES
    assert runs.newest(path).name == f"step_{step + len(sizes):010d}"
    check_resume(path, log, alien, "--rss-limit", "1200MB")


@pytest.mark.fault(
    "RSS reaches `--rss-limit`, but much of it is freed memory", promise="the memory is released and the run continues"
)
def test_a_run_releases_freed_memory_at_its_rss_limit(alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(rss_limit_bytes=LIMIT_BYTES)
    child = runs.start(log, runs.train_command, config, path, prepare=functools.partial(waste, 47, LIMIT_BYTES))
    assert child.join() == 0, log.read_text()
    (size,) = child.messages()
    assert size > LIMIT_BYTES
    assert log.read_text().count(WARNING) == 1
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))


# --- a cgroup, where one can be created ---------------------------------------------------------------------


def own_cgroup() -> Path | None:
    """Return the folder of this process's memory cgroup (v1) if child cgroups can be created in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
        if controllers == "memory" and os.access(folder, os.W_OK):
            return folder
    return None


CGROUP = own_cgroup()


@pytest.fixture
def limited() -> Iterator[Path]:
    """A cgroup with a limit of LIMIT_BYTES."""
    assert CGROUP is not None
    folder = CGROUP / f"limited-{os.getpid()}"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield folder
    folder.rmdir()


def grow_in_cgroup(folder: Path, step: int, growth_bytes: int, send: Any) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    grow(step, growth_bytes, send)


if CGROUP is not None:

    @pytest.mark.fault(
        "RSS approaches a cgroup's limit, or exceeds it at once",
        promise="checkpoint and exit 75 before the kernel kills; after a kill `resume` continues from the "
        "last checkpoint",
    )
    @pytest.mark.faults
    @pytest.mark.parametrize(("growth_bytes", "status"), [(20 * MIB, 75), (2 * LIMIT_BYTES, -signal.SIGKILL)])
    def test_a_run_survives_a_cgroup_limit(
        growth_bytes: int, status: int, limited: Path, alien: Path, tmp_path: Path
    ) -> None:
        path, log = tmp_path / "run", tmp_path / "log"
        prepare = functools.partial(grow_in_cgroup, limited, 47, growth_bytes)
        child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
        assert child.join() == status, log.read_text()
        if status == 75:
            limit = format_size(LIMIT_BYTES // 4096 * 4096)
            check_it_stopped(path, log, f"is above the limit of {limit} of its cgroup at step ")
        check_resume(path, log, alien)
