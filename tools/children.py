"""Processes whose RSS is sampled from outside, and children that stand still where it is to be read.

A tool's child is the tool itself, started again with `--child`; see `run_child` and `serve`. Only the standard
library is imported at the top, because a child measures what each import costs.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from commandline import FaultError

SAMPLE_EVERY_SECONDS = 1e-3

Sample = tuple[float, int]
"""Seconds on the monotonic clock, bytes of RSS."""


class RssSampler:
    """Inside its `with`, a thread appends the RSS of a process to `samples` every millisecond."""

    def __init__(self, pid: int) -> None:
        import psutil

        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._gone = psutil.Error
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def rss_bytes(self) -> int:
        """RSS now. Raises psutil.Error where the process has ended."""
        return int(self._process.memory_info().rss)

    def _sample(self) -> None:
        while not self._done.is_set():
            try:
                rss_bytes = self.rss_bytes()
            except self._gone:
                return
            if rss_bytes:  # none once it has ended but was not waited for
                self.samples.append((time.monotonic(), rss_bytes))
            time.sleep(SAMPLE_EVERY_SECONDS)

    def __enter__(self) -> "RssSampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


@dataclass(frozen=True)
class Mark:
    """Where a child stood still: its RSS there, and the largest since its last mark."""

    name: str
    rss_bytes: int
    peak_bytes: int
    facts: dict[str, Any]


def run_child(script: str, job: str, **settings: Any) -> Iterator[Mark]:
    """Run a job of `script` in a process of its own and yield its marks. Raises FaultError where it fails."""
    command = [sys.executable, script, "--child", json.dumps({"job": job, **settings})]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    seen = 0
    try:
        with RssSampler(child.pid) as sampler:
            for line in child.stdout:
                if not line.startswith("{"):
                    continue
                facts = json.loads(line)
                rss_bytes = sampler.rss_bytes()
                peak_bytes = max(sampled_bytes for _, sampled_bytes in [*sampler.samples[seen:], (0.0, rss_bytes)])
                yield Mark(facts.pop("mark"), rss_bytes, peak_bytes, facts)
                seen = len(sampler.samples)
                child.stdin.write("\n")
                child.stdin.flush()
    finally:
        child.stdin.close()
        child.stdout.close()
        if child.wait() != 0:
            raise FaultError(f"the child for {job} ended with status {child.returncode}")


def serve(jobs: dict[str, Callable[..., None]]) -> bool:
    """In a child, do its job; returns whether this process is one."""
    if sys.argv[1:2] != ["--child"]:
        return False
    settings = json.loads(sys.argv[2])
    jobs[settings.pop("job")](**settings)
    return True


def mark(name: str, **facts: Any) -> None:
    """In a child, stand still until the parent has looked."""
    print(json.dumps({"mark": name, **facts}), flush=True)
    sys.stdin.readline()
