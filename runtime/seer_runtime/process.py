"""What the process holds: resident set size, now and at its peak."""

import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

_PROCESS = psutil.Process()


def rss_bytes() -> int:
    """Resident set size of this process."""
    return int(_PROCESS.memory_info().rss)


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


class RssWatch:
    """Samples the resident set size every millisecond while its context is open."""

    INTERVAL_SECONDS = 1e-3

    def __init__(self) -> None:
        self.before_bytes = self.peak_bytes = self.after_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._done.is_set():
            self.peak_bytes = max(self.peak_bytes, rss_bytes())
            time.sleep(self.INTERVAL_SECONDS)

    def __enter__(self) -> "RssWatch":
        self.before_bytes = self.peak_bytes = rss_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.after_bytes = rss_bytes()
        self.peak_bytes = max(self.peak_bytes, self.after_bytes)
