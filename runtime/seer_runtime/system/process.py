"""What the process holds: resident set size, now and at its peak, and a ceiling on it."""

import _thread
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

_PROCESS = psutil.Process()
_STATM = "/proc/self/statm"


def rss_bytes() -> int:
    """Resident set size of this process."""
    try:
        # 7 us; psutil reads the same file in 18.
        descriptor = os.open(_STATM, os.O_RDONLY)
    except FileNotFoundError:  # no Linux
        return int(_PROCESS.memory_info().rss)
    try:
        return int(os.read(descriptor, 128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(descriptor)


def rss_peak_bytes() -> int:
    """The largest resident set size since the process began."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum is inherited from the process that started this one.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_BEGIN_MAX_SECONDS = 10.0


def start_thread(run: Callable[[], None]) -> None:
    """Run it in a thread of its own. Raises MemoryError where there is no memory for one.

    `threading.Thread.start` would wait for ever for a thread that dies of that as it begins.
    """
    begun = threading.Event()

    def begin() -> None:
        begun.set()
        run()

    try:
        _thread.start_new_thread(begin, ())
    except RuntimeError as error:
        raise MemoryError(str(error)) from error
    if not begun.wait(_BEGIN_MAX_SECONDS):
        raise MemoryError("a thread did not begin")


class RssWatch:
    """Samples the resident set size every millisecond while its context is open."""

    INTERVAL_SECONDS = 1e-3

    def __init__(self) -> None:
        self.before_bytes = self.peak_bytes = self.after_bytes = 0
        self._done, self._ended = threading.Event(), threading.Event()

    def _sample(self) -> None:
        try:
            while not self._done.is_set():
                self.peak_bytes = max(self.peak_bytes, rss_bytes())
                time.sleep(self.INTERVAL_SECONDS)
        finally:
            self._ended.set()

    def __enter__(self) -> "RssWatch":
        self.before_bytes = self.peak_bytes = rss_bytes()
        start_thread(self._sample)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._ended.wait()
        self.after_bytes = rss_bytes()
        self.peak_bytes = max(self.peak_bytes, self.after_bytes)


_HEAP_BOUNDS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": (-1, 64 << 20),
    "MALLOC_ARENA_MAX": (-8, 2),
}
"""glibc's: number and value of each option, by the variable of the environment that sets it too."""


def bound_heap() -> None:
    """Keep what an update frees for the next one, and one heap beside the main one for all threads.

    Otherwise glibc gives arrays of some MB back as they are freed, and each update from frames touches 1,600 to 5,300
    fresh pages, one fault each. What the environment sets stays as it is; other C libraries know nothing of this.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return
    for variable, (option, value) in _HEAP_BOUNDS.items():
        if variable not in os.environ:
            set_option(option, value)


def relieve() -> None:
    """Give back what this process holds and does not use: garbage, and free memory that the C library keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def settle() -> None:
    """`relieve` and give back code too: for the end of a phase of the run, because what is still used returns at once.

    A ceiling does not do it: what returns would bring it back there again and again.
    """
    relieve()
    _drop_clean_pages()


_SMAPS = Path("/proc/self/smaps")
_MADV_DONTNEED = 4  # Linux: unmap, and read again from the file on the next touch


@dataclass
class _Mapping:
    """One entry of `/proc/self/smaps`."""

    start: int
    end: int
    of_file: bool
    protection: str  # as `r-xp`
    own_bytes: int = 0  # written by this process, resident or swapped: in no file

    @property
    def droppable(self) -> bool:
        """Whether the file has all of it, and goes on having it: nothing was written, and nothing can be."""
        return self.of_file and self.protection in ("r-xp", "r--p") and not self.own_bytes


def _mappings() -> list[_Mapping]:
    found: list[_Mapping] = []
    with _SMAPS.open() as lines:
        for line in lines:
            name, *values = line.split()
            if not name.endswith(":"):
                start, end = (int(address, 16) for address in name.split("-"))
                found.append(_Mapping(start, end, of_file=values[3] != "0", protection=values[0]))
            elif name in ("Anonymous:", "Swap:"):
                found[-1].own_bytes += int(values[0]) * 1024
    return found


def _drop_clean_pages() -> None:
    """Unmap the code and constants of libraries; what is used comes back from the page cache, 64 kB at a touch.

    Most of it was touched once, when the libraries were loaded. Takes 50 ms.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or not _SMAPS.exists():
        return
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for mapping in _mappings():
        if mapping.droppable:
            # A refusal, as of locked pages, leaves them where they are.
            advise(mapping.start, mapping.end - mapping.start, _MADV_DONTNEED)


@dataclass(frozen=True)
class Pressure:
    """RSS came near its ceiling: `before_bytes`, and `after_bytes` once all was freed that could be."""

    limit_bytes: int
    before_bytes: int
    after_bytes: int

    @property
    def stop(self) -> bool:
        """Whether the ceiling is reached all the same."""
        return self.after_bytes >= self.limit_bytes


class RssCeiling:
    """A ceiling on the resident set size, asked between steps: what a step held and gave back is not seen.

    At 95 % of the limit it frees what it can and reports once, until RSS was below 90 %; at 100 % it frees again and
    reports where that did not help, at each check.
    """

    WARN_FRACTION = 0.95
    CALM_FRACTION = 0.90

    def __init__(
        self, limit_bytes: int, *, rss: Callable[[], int] = rss_bytes, relieve: Callable[[], None] = relieve
    ) -> None:
        self.limit_bytes = limit_bytes
        self._rss = rss
        self._relieve = relieve
        self._told = False

    def check(self) -> Pressure | None:
        """Microseconds below 95 %. None where the caller has nothing to say or do."""
        before = self._rss()
        if before < self.CALM_FRACTION * self.limit_bytes:
            self._told = False
        high = self.limit_bytes if self._told else self.WARN_FRACTION * self.limit_bytes
        if before < high:
            return None
        self._relieve()
        pressure = Pressure(self.limit_bytes, before, self._rss())
        told, self._told = self._told, True
        return pressure if pressure.stop or not told else None
