"""Memory that is not there: allocations that fail, and ceilings that are hit in mid-run."""

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
    """The C library's `malloc` and `free`."""
    malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    free.argtypes = (ctypes.c_void_p,)
    return malloc, free


def starve(spare_bytes: int) -> None:
    """Let this process have no more than `spare_bytes` beyond what it holds: free memory of its heap is taken too."""
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


def starve_at(place: str, number: int, spare_bytes: int, tell: Any) -> None:
    def act() -> None:
        tell(number)
        starve(spare_bytes)

    runs.at_call(place, number, act)


@pytest.fixture
def alien(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.left_alone(tmp_path_factory)


def check_it_goes_on(path: Path, log: Path, alien: Path, *words: str) -> None:
    """`resume` ends in the run that had the memory."""
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
    "no memory for the next allocation (RLIMIT_AS): at any moment of learning, inside the conversion",
    promise="exit 75, one line; the last generation loads and `resume` ends in the run that had the memory",
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
def test_no_memory_for_a_step(step: int, spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(
        log,
        runs.train_command,
        runs.alien(),
        path,
        prepare=functools.partial(starve_at, "seer_edge.training.session:Session.step", step, spare_bytes),
    )
    assert child.join() == 75, log.read_text()
    assert child.told() == [step]
    check_it_stopped(path, log, "out of memory (")
    assert runs.newest(path).name == f"step_{(step - 1) // 20 * 20:010d}"
    check_it_goes_on(path, log, alien)


@OUT
@pytest.mark.parametrize("spare_bytes", [4 * KB, pytest.param(256 * KB, marks=pytest.mark.faults)])
def test_no_memory_for_the_conversion(spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.session:Session.switch_to_latents", 1, spare_bytes)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    assert child.told() == [1]
    check_it_stopped(path, log, "the conversion at step 90 failed: ")
    assert runs.newest(path).name == "step_0000000090"
    check_it_goes_on(path, log, alien)


@pytest.mark.fault(
    "no memory for the preparation of the freeze (RLIMIT_AS)",
    promise="the freeze is refused, nothing is changed; what then fails ends with exit 75 as anywhere",
)
@pytest.mark.faults
@pytest.mark.parametrize("spare_bytes", [4 * KB, 256 * KB, 1024 * KB])
def test_no_memory_for_the_freeze(spare_bytes: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.freeze:_prepare", 1, spare_bytes)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    assert "no freeze at step 90: " in log.read_text()
    check_it_stopped(path, log, "")
    assert not (path / "encoder.onnx").exists()
    assert runs.newest(path).name == "step_0000000080"
    check_it_goes_on(path, log, alien)


@OUT
@pytest.mark.faults
def test_no_memory_as_the_freeze_begins(alien: Path, tmp_path: Path) -> None:
    """Not even for the thread that watches its RSS."""
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(starve_at, "seer_edge.training.run:freeze", 1, 4 * KB)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.join() == 75, log.read_text()
    check_it_goes_on(path, log, alien)


# --- ceilings ----------------------------------------------------------------------------------------------

LIMIT_BYTES = 600_000_000
MIB = 2**20


def grow(step: int, growth_bytes: int, tell: Any) -> None:
    """In the child: hold more and more from `step` on."""
    make, held = Session.step, []

    def stepping(session: Session) -> StepReport:
        if session.timestep >= step:
            held.append(bytearray(growth_bytes))
            tell(rss_bytes())
        return make(session)

    Session.step = stepping  # type: ignore[method-assign]


def waste(step: int, size_bytes: int, tell: Any) -> None:
    """In the child: before `step`, leave the C library with memory that is free but for what stands at its end."""

    def act() -> None:
        malloc, free = c_heap()
        blocks = [malloc(64 * KB) for _ in range(size_bytes // (64 * KB))]
        for block in blocks:
            ctypes.memset(block, 1, 64 * KB)
        for block in blocks[:-1]:
            free(block)
        tell(rss_bytes())

    runs.at_call("seer_edge.training.session:Session.step", step, act)


WARNING = "after freeing what was not in use"


@pytest.mark.fault(
    "`--rss-limit` is reached in mid-run, before the freeze or after it",
    promise="a warning at 95 %; at 100 % a checkpoint and exit 75; `resume` with more ends in the run without a limit",
)
@pytest.mark.parametrize("step", [47, pytest.param(123, marks=pytest.mark.faults)])
def test_a_ceiling(step: int, alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(rss_limit_bytes=LIMIT_BYTES)
    child = runs.start(log, runs.train_command, config, path, prepare=functools.partial(grow, step, 20 * MIB))
    assert child.join() == 75, log.read_text()
    sizes = child.told()
    check_it_stopped(path, log, "is above the limit of 600.0 MB at step ")
    # One as 95 % is passed, one as it stops.
    assert log.read_text().count(WARNING) == 2
    assert sizes[-2] < LIMIT_BYTES
    assert runs.newest(path).name == f"step_{step + len(sizes):010d}"
    check_it_goes_on(path, log, alien, "--rss-limit", "1200MB")


@pytest.mark.fault("`--rss-limit` is near, but much of the memory is free", promise="it is given back; the run goes on")
def test_a_ceiling_that_is_evaded(alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(rss_limit_bytes=LIMIT_BYTES)
    child = runs.start(log, runs.train_command, config, path, prepare=functools.partial(waste, 47, LIMIT_BYTES))
    assert child.join() == 0, log.read_text()
    (size,) = child.told()
    assert size > LIMIT_BYTES
    assert log.read_text().count(WARNING) == 1
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))


# --- a cgroup, where one can be made ------------------------------------------------------------------------


def own_cgroup() -> Path | None:
    """The folder of this process's cgroup for memory (v1), where it can have others inside."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
        if controllers == "memory" and os.access(folder, os.W_OK):
            return folder
    return None


CGROUP = own_cgroup()


@pytest.fixture
def limited() -> Iterator[Path]:
    """A cgroup that may hold no more than LIMIT_BYTES."""
    assert CGROUP is not None
    folder = CGROUP / f"limited-{os.getpid()}"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield folder
    folder.rmdir()


def grow_in_cgroup(folder: Path, step: int, growth_bytes: int, tell: Any) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    grow(step, growth_bytes, tell)


if CGROUP is not None:

    @pytest.mark.fault(
        "a cgroup's limit is neared in mid-run, and passed at once",
        promise="a checkpoint and exit 75 before the kernel kills; killed all the same, the last generation is resumed",
    )
    @pytest.mark.faults
    @pytest.mark.parametrize(("growth_bytes", "status"), [(20 * MIB, 75), (2 * LIMIT_BYTES, -signal.SIGKILL)])
    def test_a_cgroup(growth_bytes: int, status: int, limited: Path, alien: Path, tmp_path: Path) -> None:
        path, log = tmp_path / "run", tmp_path / "log"
        prepare = functools.partial(grow_in_cgroup, limited, 47, growth_bytes)
        child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
        assert child.join() == status, log.read_text()
        if status == 75:
            check_it_stopped(path, log, f"is above the limit of {format_size(LIMIT_BYTES // 4096 * 4096)} at step ")
        check_it_goes_on(path, log, alien)
