"""Tests of the RSS figures, the heap options and the RSS ceiling, in real processes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer_runtime.system import process
from seer_runtime.system.process import Pressure, RssCeiling, anon_bytes, rss_bytes

PEAK_OF_A_CHILD = """
import subprocess, sys
ballast = bytearray(200_000_000)
for i in range(0, len(ballast), 4096):
    ballast[i] = 1
child = "from seer_runtime.system.process import rss_peak_bytes; print(rss_peak_bytes())"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
"""


def test_peak_rss_is_not_inherited_from_a_large_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK_OF_A_CHILD], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(done.stdout) < 150_000_000


# Runs in a new process, because a large one may reuse memory that it already holds, or lose idle pages meanwhile.
WATCHED = """
import numpy as np
from seer_runtime.system.process import RssWatch, rss_bytes, rss_peak_bytes
with RssWatch() as watch:
    held = np.ones(50_000_000, np.uint8)
    for _ in range(20):
        held += 1
    del held
print(watch.before_bytes, watch.peak_bytes, watch.after_bytes, rss_bytes(), rss_peak_bytes())
"""


def test_rss_watch_sees_memory_that_was_freed_again() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    before, peak, after, now, highest = map(int, done.stdout.split())
    assert peak >= before + 45_000_000
    assert after <= before + 10_000_000
    assert highest >= 0.98 * peak  # the kernel updates the counts per thread, in batches
    assert 0.98 * now <= highest


def test_rss_watch_continues_after_a_sample_without_enough_memory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    measure, missed, measured = process.anon_bytes, threading.Event(), threading.Event()

    def fail_once() -> int:
        if threading.current_thread() is not threading.main_thread() and not missed.is_set():
            missed.set()
            raise MemoryError
        if missed.is_set():
            measured.set()
        return measure()

    monkeypatch.setattr(process, "anon_bytes", fail_once)
    with process.RssWatch() as watch:
        assert measured.wait(10)
    assert watch.anon_peak_bytes > 0
    assert capfd.readouterr().err == ""


def test_rss_watch_keeps_the_error_of_its_block_without_enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise MemoryError

    def block() -> None:
        with process.RssWatch():
            monkeypatch.setattr(process, "anon_bytes", fail)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        block()


FREED_AND_TAKEN = """
import resource, sys
import numpy as np
from seer_runtime.system.process import bound_heap
if sys.argv[1] == "bounded":
    bound_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def update():
    arrays = [np.ones(3_000_000, np.uint8) for _ in range(4)]  # too small for huge pages
    del arrays
update()
update()
before = faults()
for _ in range(10):
    update()
print((faults() - before) / 10)
"""


@pytest.mark.parametrize("variable", ["", "MALLOC_MMAP_THRESHOLD_"])
def test_bounded_heap_keeps_freed_memory_unless_a_variable_overrides_it(variable: str) -> None:
    def faults(how: str) -> float:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        if variable:
            environment[variable] = "131072"
        command = [sys.executable, "-c", FREED_AND_TAKEN, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return float(done.stdout)

    pages = 12_000_000 / 4096
    assert (faults("bounded") > pages / 2) == bool(variable)
    assert faults("default") > pages / 2


def test_rss_equals_the_figure_of_psutil() -> None:
    assert rss_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)


ANON = """
import mmap, sys, time
from pathlib import Path
from seer_runtime.system.process import RssWatch, anon_bytes, rss_bytes
SIZE = 40_000_000
Path(sys.argv[1]).write_bytes(b"file" * (SIZE // 4))
before, rss_before = anon_bytes(), rss_bytes()
with RssWatch() as watch:
    block = bytearray(b"x") * SIZE
    touched = anon_bytes()
    time.sleep(0.3)  # on a busy machine the watch misses shorter peaks
    del block
with open(sys.argv[1], "rb") as file:
    area = mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ)
total = sum(area[::mmap.PAGESIZE])
print(SIZE, before, touched, watch.anon_peak_bytes, anon_bytes(), rss_before, rss_bytes())
"""


def test_anonymous_memory_grows_with_touched_memory_and_not_with_a_mapped_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ANON, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    size, before, touched, peak, read, rss_before, rss_read = map(int, done.stdout.split())
    assert touched - before == pytest.approx(size, abs=2_000_000)
    assert peak == pytest.approx(touched, abs=2_000_000)
    assert rss_read - rss_before > size * 0.9
    assert read - before < 2_000_000


def test_anonymous_memory_of_other_processes() -> None:
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert 1_000_000 < anon_bytes(child.pid) < 100_000_000
    with pytest.raises(psutil.NoSuchProcess):
        anon_bytes(child.pid)


def test_anonymous_memory_without_proc_is_the_unshared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = anon_bytes()
    monkeypatch.setattr(process, "_STATUS", tmp_path / "none")
    assert expected / 2 < anon_bytes() < 2 * rss_bytes()


# --- idle code -----------------------------------------------------------------------------------------------

# Maps one file twice, then makes both mappings read-only. The second was written to before, so its content differs
# from the file and must be kept.
SETTLED = """
import ctypes, mmap, sys
from pathlib import Path
from seer_runtime.system.process import rss_bytes, settle

SIZE = 32 * mmap.PAGESIZE * 64
path = Path(sys.argv[1])
path.write_bytes(b"file" * (SIZE // 4))
libc = ctypes.CDLL(None)

def mapped(written):
    with path.open("r+b") as file:
        area = mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    place = (ctypes.c_char * SIZE).from_buffer(area)
    if written:
        place[SIZE // 2] = b"W"
    assert libc.mprotect(ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(SIZE), 1) == 0
    return area, place

def resident(place):
    start, found = f"{ctypes.addressof(place):x}-", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = found or line.startswith(start)
        if found and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024

held = [mapped(written) for written in (False, True)]
contents = [area[:] for area, _ in held]
before = [resident(place) for _, place in held]
settle()
after = [resident(place) for _, place in held]
print(SIZE, *before, *after, [area[:] for area, _ in held] == contents, contents[1][SIZE // 2 : SIZE // 2 + 1])
"""


def test_settle_drops_clean_file_pages_and_keeps_written_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SETTLED, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    size, clean, written, clean_after, written_after, same, byte = done.stdout.split()
    assert int(clean) >= int(size)
    assert int(written) >= int(size)
    assert int(clean_after) == 0
    assert int(written_after) == int(written)
    assert (same, byte) == ("True", "b'W'")


IDLE = """
import numpy as np, onnxruntime
from seer_runtime.system.process import rss_bytes, settle
before = rss_bytes()
settle()
after = rss_bytes()
matrix = np.arange(10_000.0).reshape(100, 100)
print(before, after, (matrix @ matrix).sum(), len(onnxruntime.get_available_providers()))
"""


def test_dropped_code_is_loaded_again_when_it_is_called() -> None:
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True, timeout=60)
    before, after, total, providers = done.stdout.split()
    assert int(after) <= int(before) - 10_000_000
    expected = float((np.arange(10_000.0).reshape(100, 100) @ np.arange(10_000.0).reshape(100, 100)).sum())
    assert float(total) == expected
    assert int(providers) >= 1


def test_settle_works_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "_SMAPS", tmp_path / "none")
    process.settle()


# --- a ceiling -----------------------------------------------------------------------------------------------


class Rss:
    """A scripted RSS: its current value, and the garbage that freeing memory subtracts from it."""

    def __init__(self) -> None:
        self.now = 0
        self.garbage = 0
        self.times_freed = 0

    def read(self) -> int:
        return self.now

    def free_memory(self) -> None:
        self.now -= self.garbage
        self.garbage = 0
        self.times_freed += 1


def _check(rss: Rss, ceiling: RssCeiling, now: int, garbage: int = 0) -> Pressure | None:
    rss.now, rss.garbage = now, garbage
    return ceiling.check()


def test_ceiling_warns_once_and_again_only_after_rss_fell_below_90_percent() -> None:
    rss = Rss()
    ceiling = RssCeiling(1_000, rss=rss.read, free_memory=rss.free_memory)
    assert _check(rss, ceiling, 949) is None
    assert rss.times_freed == 0
    report = _check(rss, ceiling, 950)
    assert report == Pressure(limit_bytes=1_000, before_bytes=950, after_bytes=950)
    assert not report.stop
    assert all(_check(rss, ceiling, now) is None for now in (960, 949, 951, 900, 999))
    assert rss.times_freed == 1
    assert _check(rss, ceiling, 899) is None
    assert _check(rss, ceiling, 970, garbage=30) == Pressure(1_000, 970, 940)
    assert rss.times_freed == 2


def test_ceiling_stops_at_100_percent_only_if_freeing_memory_does_not_help() -> None:
    rss = Rss()
    ceiling = RssCeiling(1_000, rss=rss.read, free_memory=rss.free_memory)
    first = _check(rss, ceiling, 1_050, garbage=60)
    assert first == Pressure(1_000, 1_050, 990)
    assert not first.stop
    assert _check(rss, ceiling, 1_000, garbage=1) is None  # reported before, and freeing memory helped
    assert rss.times_freed == 2
    last = _check(rss, ceiling, 1_010, garbage=10)
    assert last == Pressure(1_000, 1_010, 1_000)
    assert last.stop
    again = _check(rss, ceiling, 1_010)
    assert again is not None
    assert again.stop


@given(st.lists(st.tuples(st.integers(800, 1_100), st.integers(0, 150)), max_size=60))
def test_ceiling_follows_its_rules_on_random_scripts(script: list[tuple[int, int]]) -> None:
    rss = Rss()
    ceiling = RssCeiling(1_000, rss=rss.read, free_memory=rss.free_memory)
    in_excursion = False
    for now, garbage in script:
        report = _check(rss, ceiling, now, garbage)
        in_excursion = in_excursion and now >= 900
        frees = now >= 1_000 or (now >= 950 and not in_excursion)
        after = now - garbage if frees else now
        reports = (frees and not in_excursion) or after >= 1_000
        assert report == (Pressure(1_000, now, after) if reports else None)
        in_excursion = in_excursion or frees


# Creates cyclic garbage between blocks that stay allocated. The C library keeps such holes until malloc_trim.
GROWING = """
import gc
from seer_runtime.system.process import RssCeiling, rss_bytes, rss_peak_bytes
gc.disable()
class Node:
    def __init__(self):
        self.me, self.ballast = self, bytes(2_000)
ceiling = RssCeiling(rss_bytes() + 100_000_000)
held, reports = [], []
while not (reports and reports[-1].stop):
    held.append([Node() if i % 100 else bytes(2_000) for i in range(1_000)])
    if len(reports) == 0:
        held[-1] = held[-1][::100]
    report = ceiling.check()
    if report is not None:
        reports.append(report)
print(ceiling.limit_bytes, rss_peak_bytes())
for report in reports:
    print(report.before_bytes, report.after_bytes)
"""


def test_growing_process_frees_memory_then_stops_at_its_ceiling() -> None:
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True, timeout=60)
    (limit, peak), first, second, last = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    batch = 100_000  # the kernel updates the counts in batches
    assert 0.95 * limit <= first[0] < limit
    assert first[1] <= first[0] - 50_000_000  # most of the growth was garbage
    assert 0.95 * limit <= second[1] <= second[0] + batch
    assert second[0] < limit <= last[1] <= last[0] + batch
    assert peak <= limit + 5_000_000
