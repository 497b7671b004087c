"""Run a training command and watch its RSS from outside: peak, and before, during and after the freeze.

python tools/watch_rss.py [--out FILE.csv] -- seer-edge train --env Alien ...
"""

import argparse
import csv
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

INTERVAL_SECONDS = 1e-3
FREEZE_LINE = re.compile(r"freeze at step .* in ([\d.]+) s,")

Sample = tuple[float, int]  # seconds on the monotonic clock, bytes


class Watch:
    """Samples one process every millisecond and remembers when it said that it had frozen."""

    def __init__(self, command: list[str]) -> None:
        self.samples: list[Sample] = []
        self.frozen: tuple[float, float] | None = None  # begin and end
        self._child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read_lines)

    def _read_lines(self) -> None:
        assert self._child.stderr is not None
        for line in self._child.stderr:
            moment = time.monotonic()
            sys.stderr.write(line)
            if match := FREEZE_LINE.search(line):
                self.frozen = moment - float(match[1]), moment

    def run(self) -> int:
        """Sample until the process ends; returns its exit status."""
        self._reader.start()
        process = psutil.Process(self._child.pid)
        while self._child.poll() is None:
            try:
                rss = process.memory_info().rss
            except psutil.NoSuchProcess:
                break
            if rss:
                self.samples.append((time.monotonic(), rss))
            time.sleep(INTERVAL_SECONDS)
        self._reader.join()
        return self._child.wait()

    def report(self) -> dict[str, float]:
        """Megabytes: the process's peak, and the freeze's before, peak, after and transient."""
        peaks = {"process_peak_mb": max(rss for _, rss in self.samples) / 1e6}
        if self.frozen is None:
            return peaks
        begin, end = self.frozen
        before = next(rss for moment, rss in reversed(self.samples) if moment < begin)
        after = next(rss for moment, rss in self.samples if moment >= end)
        peak = max(rss for moment, rss in self.samples if begin <= moment <= end)
        return peaks | {
            "freeze_before_mb": before / 1e6,
            "freeze_peak_mb": peak / 1e6,
            "freeze_after_mb": after / 1e6,
            "freeze_growth_mb": (after - before) / 1e6,
            "freeze_transient_mb": (peak - max(before, after)) / 1e6,
        }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Watch the RSS of a training run from outside.")
    parser.add_argument("--out", type=Path, help="write the samples as CSV: seconds, bytes")
    parser.add_argument("command", nargs="+", help="-- and the command to run")
    flags = parser.parse_args()
    watch = Watch(flags.command)
    status = watch.run()
    for name, value in watch.report().items():
        print(f"{name:<20} {value:8.1f}")
    if flags.out:
        start = watch.samples[0][0]
        with flags.out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seconds", "rss_bytes"))
            writer.writerows((f"{moment - start:.4f}", rss) for moment, rss in watch.samples)
    return status


if __name__ == "__main__":
    sys.exit(main())
