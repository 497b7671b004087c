"""Sample a process's RSS from outside, and run child processes that pause at marks so that their RSS can be read.

A tool's child is the tool itself, started again with `--child`; see `run_child` and `serve`. The top of this module
imports only the standard library, because children measure the cost of each import.
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
    """Context manager: a thread that appends the RSS of a process to `samples` every millisecond."""

    def __init__(self, pid: int) -> None:
        import psutil

        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._gone = psutil.Error
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def rss_bytes(self) -> int:
        """Return the present RSS in bytes. Raises psutil.Error where the process has ended."""
        return int(self._process.memory_info().rss)

    def _sample(self) -> None:
        while not self._done.is_set():
            try:
                rss_bytes = self.rss_bytes()
            except self._gone:
                return
            if rss_bytes:  # 0 for a process that has ended but was not waited for
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
    """A point where a child paused: its RSS there, the largest since its last mark, and facts that it reported."""

    name: str
    rss_bytes: int
    peak_bytes: int
    facts: dict[str, Any]


def run_child(script: str, job: str, **settings: Any) -> Iterator[Mark]:
    """Run a job of `script` in a child process and yield its marks. Raises FaultError where the child fails."""
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
    """Return whether this process is a child, after running its job if it is."""
    if sys.argv[1:2] != ["--child"]:
        return False
    settings = json.loads(sys.argv[2])
    jobs[settings.pop("job")](**settings)
    return True


def mark(name: str, **facts: Any) -> None:
    """In a child, report a mark and wait until the parent has read the RSS."""
    print(json.dumps({"mark": name, **facts}), flush=True)
    sys.stdin.readline()
