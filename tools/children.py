"""Sample a process's memory from outside, and run child processes that pause at marks so that it can be read.

A tool's child is the tool itself, started again with `--child`; see `run_child` and `serve`. The top of this module
imports only the standard library, because children measure the cost of each import.
"""

import importlib
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

Sample = tuple[float, int, int]
"""Seconds on the monotonic clock, bytes of RSS, bytes of anonymous memory."""


class MemorySampler:
    """Context manager: a thread that appends the memory of a process to `samples` every millisecond.

    Call `import_reader` before the process starts, because the imports take longer than a short process lives.
    """

    def __init__(self, pid: int) -> None:
        import psutil

        from seer_runtime.system.process import anon_bytes

        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self._gone = psutil.Error
        self._anon_bytes = anon_bytes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def read(self) -> Sample:
        """Return a sample of now. Raises psutil.Error where the process has ended."""
        return time.monotonic(), int(self._process.memory_info().rss), self._anon_bytes(self._process.pid)

    def _sample(self) -> None:
        while not self._done.is_set():
            try:
                sample = self.read()
            except self._gone:
                return
            if sample[1]:  # 0 for a process that has ended but was not waited for
                self.samples.append(sample)
            time.sleep(SAMPLE_EVERY_SECONDS)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


def import_reader() -> None:
    """Import what a `MemorySampler` needs."""
    importlib.import_module("seer_runtime.system.process")


@dataclass(frozen=True)
class Mark:
    """A point where a child paused: its memory there, the largest since its last mark, and facts that it reported."""

    name: str
    rss_bytes: int
    peak_bytes: int  # of the RSS
    anon_bytes: int
    anon_peak_bytes: int
    facts: dict[str, Any]


def child_command(script: str, job: str, **settings: Any) -> list[str]:
    """Return the command line that runs a job of `script` in a child process."""
    return [sys.executable, script, "--child", json.dumps({"job": job, **settings})]


def run_child(script: str, job: str, **settings: Any) -> Iterator[Mark]:
    """Run a job of `script` in a child process and yield its marks. Raises FaultError where the child fails."""
    import_reader()
    command = child_command(script, job, **settings)
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    seen = 0
    try:
        with MemorySampler(child.pid) as sampler:
            for line in child.stdout:
                if not line.startswith("{"):
                    continue
                facts = json.loads(line)
                now = sampler.read()
                _, rss_bytes, anon_bytes = zip(*sampler.samples[seen:], now, strict=True)
                yield Mark(facts.pop("mark"), now[1], max(rss_bytes), now[2], max(anon_bytes), facts)
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
    """In a child, report a mark and wait until the parent has read the memory."""
    print(json.dumps({"mark": name, **facts}), flush=True)
    sys.stdin.readline()
