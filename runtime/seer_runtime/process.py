"""What the process holds: resident set size, now and at its peak."""

import sys
import threading
import time
from types import TracebackType

import psutil

_PROCESS = psutil.Process()


def rss_bytes() -> int:
    """Resident set size of this process."""
    return int(_PROCESS.memory_info().rss)


def rss_peak_bytes() -> int:
    """The largest resident set size since the process began."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, rss_bytes())


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
