"""Kill and resume a long run, and check that RSS, file descriptors, threads and disk usage do not grow.

    python tools/soak.py --minutes 60 --kill-every 7 --out docs/results/soak -- --env Alien --mem-budget 14.2MB ...

After `--` give flags of `seer-edge train`. Every five seconds a sample is appended to `soak.csv`. At the end the drift
of each figure is printed: the slope of a line through the samples that are at least `--settle` minutes into a process.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from commandline import BadInputError, FaultError, Parser, count, progress, render, run_tool, seed

SAMPLE_EVERY_SECONDS = 5.0
START_SECONDS_MAX = 180.0
COMMAND = [sys.executable, "-m", "seer_edge"]


@dataclass(frozen=True)
class Sample:
    """The resources of the run at one moment."""

    minutes: float  # since the start of the soak
    process: int  # 0 for the first process, one more after each resume
    age_minutes: float  # since the start of the process
    timestep: int
    rss_bytes: int
    descriptors: int
    threads: int
    disk_bytes: int


def soak(flags: argparse.Namespace, run: Path) -> Iterator[Sample]:
    """Train, kill and resume until the time or the run is over, and yield samples.

    Raises FaultError where the run fails.
    """
    begin, draw, process = time.monotonic(), random.Random(flags.seed), 0
    end = begin + 60 * flags.minutes
    command = [*COMMAND, "train", *flags.train, "--run-dir", str(run)]
    while time.monotonic() < end:
        with (run.parent / "soak.log").open("a") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log)
        started = time.monotonic()
        lasts = 60 * flags.kill_every * draw.uniform(0.5, 1.5) if flags.kill_every else float("inf")
        try:
            while time.monotonic() < min(started + lasts, end):
                time.sleep(SAMPLE_EVERY_SECONDS)
                if child.poll() == 0:
                    return
                if child.returncode is not None:
                    raise FaultError(f"the run failed with status {child.returncode}; see {log.name}")
                sample = _sample(child.pid, run, process, begin, started)
                if sample is not None:
                    yield sample
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        command, process = [*COMMAND, "resume", str(run)], process + 1


def _sample(pid: int, run: Path, process: int, begin: float, started: float) -> Sample | None:
    """Take a sample; return None while progress.csv has no row."""
    import psutil

    progress = run / "progress.csv"
    if not progress.exists() or len(rows := progress.read_text().splitlines()) < 2:
        if time.monotonic() - started > START_SECONDS_MAX:
            raise FaultError(f"no row in {progress} after {START_SECONDS_MAX:.0f} s")
        return None
    found, now = psutil.Process(pid), time.monotonic()
    return Sample(
        minutes=(now - begin) / 60,
        process=process,
        age_minutes=(now - started) / 60,
        timestep=int(rows[-1].split(",")[0]),
        rss_bytes=found.memory_info().rss,
        descriptors=found.num_fds(),
        threads=found.num_threads(),
        disk_bytes=_size_bytes(run),
    )


def _size_bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_size
            except FileNotFoundError:  # a checkpoint that the run has removed
                continue
    return total


def drift(samples: list[Sample], what: str, settle_minutes: float) -> tuple[float, float, float, float]:
    """Return the smallest, median and largest value in settled processes, and the growth per hour.

    The fit has one slope for all processes and a separate level for each.
    """
    ages: list[float] = []
    values: list[float] = []
    levels: list[float] = []
    for process in sorted({sample.process for sample in samples}):
        settled = [s for s in samples if s.process == process and s.age_minutes >= settle_minutes]
        if len(settled) < 3:
            continue
        age, value = (
            np.array([s.age_minutes / 60 for s in settled]),
            np.array([float(getattr(s, what)) for s in settled]),
        )
        levels += value.tolist()
        ages += (age - age.mean()).tolist()
        values += (value - value.mean()).tolist()
    if not levels:
        raise FaultError(f"no process lasted {settle_minutes:g} minutes; use a larger --minutes or a smaller --settle")
    slope = float(np.dot(ages, values) / np.dot(ages, ages))
    return min(levels), float(np.median(levels)), max(levels), slope


def show(samples: list[Sample], settle_minutes: float) -> None:
    """Print the table of drifts."""
    lines = []
    for what, name, unit in (
        ("rss_bytes", "RSS, MB", 1e6),
        ("descriptors", "file descriptors", 1),
        ("threads", "threads", 1),
        ("disk_bytes", "disk, MB", 1e6),
    ):
        figures = drift(samples, what, settle_minutes)
        lines.append((name, *(f"{figure / unit:.1f}" for figure in figures)))
    last = samples[-1]
    progress(f"{last.minutes:.0f} minutes, {last.timestep:,} steps, {last.process} kills and resumes")
    print(render(("resource", "least", "median", "most", "growth an hour"), lines))


def _flags() -> argparse.Namespace:
    parser = Parser(prog="soak.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=count, default=60, metavar="N", help="minutes to run (60)")
    parser.add_argument(
        "--kill-every", type=seed, default=7, metavar="N", help="minutes between kills, +-50%%; 0: none (7)"
    )
    parser.add_argument("--settle", type=float, default=2.0, metavar="N", help="minutes to ignore after each start (2)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the times of the kills (0)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for run, log and samples")
    parser.add_argument("train", nargs="+", metavar="FLAG", help="after --, flags of seer-edge train")
    return parser.parse_args()


def _run() -> int:
    flags = _flags()
    try:
        flags.out.mkdir(parents=True)
    except OSError as error:
        raise BadInputError(f"--out {flags.out}: cannot be created ({error.strerror}); name a new folder") from error
    samples = []
    with (flags.out / "soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        for sample in soak(flags, flags.out / "run"):
            samples.append(sample)
            writer.writerow(astuple(sample))
            file.flush()
    if not samples:
        raise FaultError("no samples were taken; use a larger --minutes")
    show(samples, flags.settle)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("soak.py", _run))
