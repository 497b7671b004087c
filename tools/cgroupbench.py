"""Find the smallest memory cgroup in which a training command runs to its end at 90 % of its free speed.

    python tools/cgroupbench.py [--low 120MB] [--high 320MB] [--step 4MB] [-- TRAIN FLAGS]      needs root

The command is measured with and without `_drop_clean_pages` of `settle`. The speed is that of the steps: imports,
which a long run forgets, are not counted. A small cgroup costs system time and waits for the disk. It leaves user time
unchanged, which the load of the machine changes more than any cgroup, so the user time of a free run is used for both.

All runs import their packages from a private copy of the installed ones. Otherwise the kernel would charge code pages
to the cgroup of another process that has read the same files.
"""

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import BadInputError, FaultError, Parser, count, mb, progress, render, run_tool, size

REPOSITORY = Path(__file__).resolve().parents[1]
SPEED_FRACTION = 0.9
SAMPLE_EVERY_SECONDS = 0.02
# The replay fills, a hundred updates from frames, the freeze, a hundred updates from latents, one evaluation.
TRAIN_FLAGS = (
    *("--env", "Alien", "--mem-budget", "14.2MB", "--total-timesteps", "2200", "--freeze-at", "2100"),
    *("--set", "learning_starts=2000", "--eval-episodes", "1"),
)
LAUNCH = """
import sys
from seer_runtime.system import memory, process
memory.cgroup_limit_bytes = lambda *_: None  # the kernel decides what fits, not the plan
if "no drop" in sys.argv[1]:
    process._drop_clean_pages = lambda: None
from seer_edge.cli.commands import main
del sys.argv[1]
sys.exit(main())
"""
ARMS = {"as it is": "", "without _drop_clean_pages": "no drop"}


# --- cgroups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy with the memory controller, and the names of its files."""

    folder: Path
    limit: str
    swap_limit: str
    swap_counts_memory: bool  # whether the swap limit is on the sum of memory and swap


def find_hierarchy(root: Path = Path("/")) -> Hierarchy:
    """Return the hierarchy for new memory cgroups. Raises BadInputError if there is none, or it cannot be written."""
    version1 = root / "sys/fs/cgroup/memory"
    version2 = root / "sys/fs/cgroup"
    controllers = version2 / "cgroup.controllers"
    if (version1 / "memory.limit_in_bytes").exists():
        found = Hierarchy(version1, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", swap_counts_memory=True)
    elif controllers.exists() and "memory" in controllers.read_text().split():
        found = Hierarchy(version2, "memory.max", "memory.swap.max", swap_counts_memory=False)
    else:
        raise BadInputError("this system has no memory cgroups (cgroup v1 or v2 in /sys/fs/cgroup); use another one")
    if os.geteuid() != 0 or not os.access(found.folder, os.W_OK):
        raise BadInputError(f"{found.folder}: no cgroup can be made there; run this tool as root, outside a container")
    return found


@contextlib.contextmanager
def memory_cgroup(hierarchy: Hierarchy, limit_bytes: int) -> Iterator[Path]:
    """Context manager: a new cgroup that limits memory and allows no swap. Raises BadInputError if it is refused."""
    folder = hierarchy.folder / f"cgroupbench-{os.getpid()}"
    try:
        if not hierarchy.swap_counts_memory:
            (hierarchy.folder / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
    except OSError as error:
        raise BadInputError(f"{folder}: the cgroup cannot be made ({error.strerror}); run this tool as root") from error
    try:
        (folder / hierarchy.limit).write_text(str(limit_bytes))
        if (folder / hierarchy.swap_limit).exists():
            (folder / hierarchy.swap_limit).write_text(str(limit_bytes if hierarchy.swap_counts_memory else 0))
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(100):  # a killed process leaves its cgroup a moment later
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
    raise FaultError(f"{folder} could not be removed: a process is still in it")


# --- the private copy ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_packages() -> Iterator[Path]:
    """Context manager: a temporary copy of site-packages and of this repository's packages."""
    with tempfile.TemporaryDirectory(prefix="cgroupbench-") as name:
        folder = Path(name)
        shutil.copytree(sysconfig.get_paths()["purelib"], folder, dirs_exist_ok=True, symlinks=True)
        for source in (REPOSITORY / "seer_edge", REPOSITORY / "runtime" / "seer_runtime"):
            shutil.rmtree(folder / source.name, ignore_errors=True)
            shutil.copytree(source, folder / source.name)
        os.sync()  # dirty pages cannot be dropped
        yield folder


def drop_from_cache(folder: Path) -> None:
    """Drop all files below `folder` from the page cache, except pages that are dirty or mapped."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a dangling link
                descriptor = os.open(Path(parent) / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


# --- one run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and the seconds that its steps took on the CPU and waited for a disk."""

    status: int | None  # None if it was stopped as too slow
    user: float
    system: float
    disk: float
    error: str = ""  # the last line on stderr

    @property
    def overhead(self) -> float:
        """The seconds that depend on the size of the cgroup: page faults, reclaim, and files that are read again."""
        return self.system + self.disk


def process_seconds(pid: int) -> tuple[float, float, int]:
    """Return the user and system seconds of a process, and how many of its threads wait for a disk now."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    waiting = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            waiting += _stat(task / "stat")[0] == "D"
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks, waiting


def _stat(path: Path) -> list[str]:
    """Return the fields after the name, which may hold spaces: state first, user and system ticks at 11 and 12."""
    return path.read_text().rpartition(")")[2].split()


def run(command: list[str], environment: dict[str, str], begun: Callable[[], bool], most_overhead: float) -> Outcome:
    """Run `command` and return the seconds that it used after `begun()` became true.

    Kills it once its overhead since then exceeds `most_overhead`. The disk wait is sampled, and is summed over threads.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        start, used, disk, last = (0.0, 0.0), (0.0, 0.0), 0.0, time.monotonic()
        counting = False
        try:
            while child.poll() is None:
                time.sleep(SAMPLE_EVERY_SECONDS)
                now = time.monotonic()
                with contextlib.suppress(OSError, IndexError):  # it has ended
                    *cpu, waiting = process_seconds(child.pid)
                    if not counting and begun():
                        counting, start, disk = True, (cpu[0], cpu[1]), 0.0
                    disk += waiting * (now - last)
                    used = cpu[0] - start[0], cpu[1] - start[1]
                last = now
                if counting and used[1] + disk > most_overhead:
                    return Outcome(None, *used, disk)
        finally:
            child.kill()
            child.wait()
        errors.seek(0)
        return Outcome(child.returncode, *used, disk, (errors.read().splitlines() or [""])[-1])


@dataclass(frozen=True)
class Bench:
    """Runs the training command in its arms, each time with a cold private copy of the packages."""

    packages: Path
    hierarchy: Hierarchy
    train_flags: tuple[str, ...]

    def train(self, arm: str, limit_bytes: int | None, most_overhead: float) -> Outcome:
        """Run one arm in a cgroup of `limit_bytes`, or free if it is None."""
        drop_from_cache(self.packages)
        environment = {**os.environ, "PYTHONPATH": str(self.packages), "PYTHONDONTWRITEBYTECODE": "1"}
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as limits:
            path = Path(folder) / "run"
            # The interpreter outside the virtual environment finds no packages except those in the copy.
            command = [os.path.realpath(sys.executable), "-c", LAUNCH, ARMS[arm], "train", *self.train_flags]
            command += ["--run-dir", str(path)]
            if limit_bytes is not None:
                group = limits.enter_context(memory_cgroup(self.hierarchy, limit_bytes))
                command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]
            # The checkpoint before the first step ends the imports, whose share of a short job is too large.
            return run(command, environment, lambda: any(path.glob("checkpoints/step_*")), most_overhead)


# --- the smallest cgroup ------------------------------------------------------------------------------------------


def smallest(low: int, high: int, step: int, fits: Callable[[int], bool]) -> int:
    """Return the least of `low + step`, `low + 2 step`, ... up to `high` that fits, by bisection.

    `low` is assumed not to fit. Raises FaultError if the largest does not fit.
    """
    least, most = 0, (high - low) // step
    if not fits(low + most * step):
        raise FaultError(f"{mb(low + most * step)} MB are too small; raise --high")
    while most - least > 1:
        middle = (least + most) // 2
        if fits(low + middle * step):
            most = middle
        else:
            least = middle
    if least == 0 and most == 1 and fits(low):
        raise FaultError(f"{mb(low)} MB are enough; lower --low")
    return low + most * step


@dataclass
class Arm:
    """The search for one arm: its free runs, and what was tried in a cgroup."""

    bench: Bench
    name: str
    free_runs: int
    free: list[Outcome]

    def fits(self, limit_bytes: int) -> bool:
        """Return whether the command runs to its end in a cgroup, at 90 % of its free speed or more."""
        if len(self.free) < self.free_runs:
            outcome = self.bench.train(self.name, None, float("inf"))
            if outcome.status != 0:
                raise FaultError(f"the free run ended with status {outcome.status}: {outcome.error}")
            self.free.append(outcome)
        outcome = self.bench.train(self.name, limit_bytes, self.overhead + self.seconds * (1 / SPEED_FRACTION - 1))
        how = {None: "too slow", 0: "fits"}.get(outcome.status, f"ended with status {outcome.status}")
        speed = self.seconds / (self.seconds + outcome.overhead - self.overhead)
        progress(
            f"{self.name}, {mb(limit_bytes)} MB: {how}, {speed:.1%} of the free speed; system {outcome.system:.2f} s, "
            f"disk {outcome.disk:.2f} s; free {self.seconds:.1f} s, of which {self.overhead:.2f} s system and disk"
        )
        return outcome.status == 0

    @property
    def seconds(self) -> float:
        """Seconds of the free runs' steps on the CPU and waiting for a disk; the median."""
        return statistics.median(run.user + run.overhead for run in self.free)

    @property
    def overhead(self) -> float:
        """The part of `seconds` that depends on memory; the median."""
        return statistics.median(run.overhead for run in self.free)


# --- command line -------------------------------------------------------------------------------------------------


def _flags() -> argparse.Namespace:
    parser = Parser(prog="cgroupbench.py", description=(__doc__ or "").splitlines()[0])
    given: dict[str, Any] = {"type": size, "metavar": "SIZE"}
    parser.add_argument("--low", default="120MB", help="a cgroup that is too small (120MB)", **given)
    parser.add_argument("--high", default="320MB", help="a cgroup that is large enough (320MB)", **given)
    parser.add_argument("--step", default="4MB", help="resolution of the result (4MB)", **given)
    parser.add_argument("--free-runs", type=count, default=2, metavar="N", help="most free runs of each arm (2)")
    parser.add_argument("--arm", action="append", choices=ARMS, help="measure this arm only; may be repeated")
    parser.add_argument("train", nargs="*", metavar="FLAG", help="after --, the flags of seer-edge train")
    flags = parser.parse_args()
    if flags.high < flags.low + flags.step:
        raise BadInputError(f"--high {flags.high} B: less than one step above --low {flags.low} B; use a larger one")
    return flags


def _run() -> int:
    flags = _flags()
    hierarchy = find_hierarchy()
    with memory_cgroup(hierarchy, flags.high):
        pass  # fail here rather than after the first free run
    progress("copying the installed packages")
    found = []
    with private_packages() as packages:
        bench = Bench(packages, hierarchy, tuple(flags.train) or TRAIN_FLAGS)
        for name in flags.arm or ARMS:
            arm = Arm(bench, name, flags.free_runs, [])
            limit_bytes = smallest(flags.low, flags.high, flags.step, arm.fits)
            found.append((name, mb(limit_bytes), f"{arm.seconds:.1f}"))
            print(f"{name}: {mb(limit_bytes)} MB", flush=True)
    print(render(("released pages", "smallest cgroup MB", "free run s"), found))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the child, remove the cgroup and the copy
    sys.exit(run_tool("cgroupbench.py", _run))
