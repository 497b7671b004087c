"""Memory of this process: resident set size (RSS), anonymous memory, heap options, and a ceiling on the RSS."""

import _thread
import contextlib
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
_STATUS = Path("/proc/self/status")


def rss_bytes() -> int:
    """Return the resident set size of this process."""
    try:
        # Takes 7 us. psutil takes 18 us to read the same file.
        descriptor = os.open(_STATM, os.O_RDONLY)
    except FileNotFoundError:  # not Linux
        return int(_PROCESS.memory_info().rss)
    try:
        return int(os.read(descriptor, 128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(descriptor)


def rss_peak_bytes() -> int:
    """Return the largest resident set size since the process started."""
    if _STATUS.exists():
        # On Linux, the maximum of getrusage is inherited from the parent process.
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def anon_bytes(process_id: int | None = None) -> int:
    """Return the anonymous memory of a process, by default of this one: its resident pages that no file backs.

    Without swap the kernel cannot take these pages back. Where `/proc` does not report them, as on macOS, this returns
    the memory that no other process shares. A process that has ended and was not waited for has 0.

    Raises psutil.Error if there is no such process.
    """
    pid = os.getpid() if process_id is None else process_id
    if not _STATUS.exists():
        return int(psutil.Process(pid).memory_full_info().uss)
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    _, found, figure = status.partition(b"\nRssAnon:")
    return int(figure.split(maxsplit=1)[0]) * 1024 if found else 0


_THREAD_START_MAX_SECONDS = 10.0


def start_thread(run: Callable[[], None]) -> None:
    """Call `run` in a new thread. Raises MemoryError if there is no memory for the thread.

    `threading.Thread.start` would wait forever for a thread that runs out of memory while it starts.
    """
    started = threading.Event()

    def start() -> None:
        started.set()
        run()

    try:
        _thread.start_new_thread(start, ())
    except RuntimeError as error:
        raise MemoryError(str(error)) from error
    if not started.wait(_THREAD_START_MAX_SECONDS):
        raise MemoryError(f"a new thread did not start within {_THREAD_START_MAX_SECONDS:g} seconds")


class RssWatch:
    """Context manager: samples the resident set size and the anonymous memory every millisecond.

    Attributes, in bytes: the RSS `before_bytes` at entry, `peak_bytes` over the block, `after_bytes` at exit. The
    anonymous memory `anon_peak_bytes` over the block.
    """

    INTERVAL_SECONDS = 1e-3

    def __init__(self) -> None:
        self.before_bytes = self.peak_bytes = self.after_bytes = self.anon_peak_bytes = 0
        self._stop, self._ended = threading.Event(), threading.Event()

    def _sample(self) -> None:
        try:
            while not self._stop.is_set():
                # Without memory for a sample, the block itself is about to report that there is none.
                with contextlib.suppress(MemoryError):
                    self.peak_bytes = max(self.peak_bytes, rss_bytes())
                    self.anon_peak_bytes = max(self.anon_peak_bytes, anon_bytes())
                time.sleep(self.INTERVAL_SECONDS)
        finally:
            self._ended.set()

    def __enter__(self) -> "RssWatch":
        self.before_bytes = self.peak_bytes = rss_bytes()
        self.anon_peak_bytes = anon_bytes()
        start_thread(self._sample)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ended.wait()
        with contextlib.suppress(MemoryError) if kind is not None else contextlib.nullcontext():
            self.after_bytes = rss_bytes()
            self.peak_bytes = max(self.peak_bytes, self.after_bytes)
            self.anon_peak_bytes = max(self.anon_peak_bytes, anon_bytes())


_HEAP_BOUNDS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20),  # the largest value that glibc accepts
    "MALLOC_TRIM_THRESHOLD_": (-1, 64 << 20),
    "MALLOC_ARENA_MAX": (-8, 2),
}
"""The `mallopt` number and the value of each glibc option, by the environment variable that sets the same option."""


def bound_heap() -> None:
    """Make glibc keep freed memory for reuse, and use at most two heaps for all threads.

    By default glibc returns arrays of a few MB to the system when they are freed. Each update from frames then touches
    1,600 to 5,300 new pages, with one page fault each. Options that the process environment sets are left unchanged.
    Other C libraries have no such options; on those this does nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return
    for variable, (option, value) in _HEAP_BOUNDS.items():
        if variable not in os.environ:
            set_option(option, value)


def free_unused_memory() -> None:
    """Collect garbage and return the free memory of the C heap to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def settle() -> None:
    """Free unused memory, then unmap library code that is not in use. Call it at the end of a phase of the run.

    Pages still in use are mapped again on their next touch. An RSS ceiling must not call this: those pages would bring
    the RSS back to the ceiling again and again.
    """
    free_unused_memory()
    _drop_clean_pages()


_SMAPS = Path("/proc/self/smaps")
_MADV_DONTNEED = 4  # Linux: unmap the pages; the next touch reads them from the file again


@dataclass
class _Mapping:
    """One entry of `/proc/self/smaps`."""

    start: int
    end: int
    of_file: bool
    protection: str  # for example `r-xp`
    own_bytes: int = 0  # written by this process, resident or swapped; not in the file

    @property
    def droppable(self) -> bool:
        """Whether the file holds all of its content: the process wrote nothing to it and cannot write to it."""
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
    """Unmap the code and constants of libraries. A page in use returns from the page cache, 64 kB at a touch.

    Most of these pages were used only once, when the libraries were loaded. This takes 50 ms.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or not _SMAPS.exists():
        return
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for mapping in _mappings():
        if mapping.droppable:
            # The kernel may refuse, for example for locked pages. They then stay mapped, which does no harm.
            advise(mapping.start, mapping.end - mapping.start, _MADV_DONTNEED)


@dataclass(frozen=True)
class Pressure:
    """A report that the RSS came near its ceiling: the RSS before and after unused memory was freed."""

    limit_bytes: int
    before_bytes: int
    after_bytes: int

    @property
    def stop(self) -> bool:
        """Whether the RSS still reaches the ceiling, so that the run must stop."""
        return self.after_bytes >= self.limit_bytes


class RssCeiling:
    """A ceiling on the resident set size, checked between steps. It does not see memory that a step frees again.

    At 95 % of the limit it frees unused memory and reports once; it reports again only after the RSS fell below 90 %.
    At 100 % it frees unused memory at each check, and reports if the RSS still reaches the limit.
    """

    WARN_FRACTION = 0.95
    CALM_FRACTION = 0.90

    def __init__(
        self,
        limit_bytes: int,
        *,
        rss: Callable[[], int] = rss_bytes,
        free_memory: Callable[[], None] = free_unused_memory,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._rss = rss
        self._free_memory = free_memory
        self._reported = False

    def check(self) -> Pressure | None:
        """Return a report for the caller to print or act on, or None. Takes microseconds below 95 % of the limit."""
        before = self._rss()
        if before < self.CALM_FRACTION * self.limit_bytes:
            self._reported = False
        high = self.limit_bytes if self._reported else self.WARN_FRACTION * self.limit_bytes
        if before < high:
            return None
        self._free_memory()
        pressure = Pressure(self.limit_bytes, before, self._rss())
        reported, self._reported = self._reported, True
        return pressure if pressure.stop or not reported else None
