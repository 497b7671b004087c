"""A long run that is killed and resumed on the way: RSS, descriptors, threads and disk have to stay flat.

    python tools/soak.py --minutes 60 --kill-every 7 --out docs/results/soak -- --env Alien --mem-budget 14.2MB …

What stands after `--` are flags of `seer-edge train`. Samples go to `soak.csv` every few seconds; at the end each
figure's drift is printed: a line fitted through the samples of each process from `--settle` minutes on.
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
from commandline import BadInputError, FaultError, Parser, answer, count, render, say, seed

SAMPLE_EVERY_SECONDS = 5.0
START_SECONDS_MAX = 180.0
COMMAND = [sys.executable, "-m", "seer_edge"]


@dataclass(frozen=True)
class Sample:
    """What the run held at one moment."""

    minutes: float  # since the soak began
    process: int  # 0 for the first, one more with each resume
    age_minutes: float  # of the process
    timestep: int
    rss_bytes: int
    descriptors: int
    threads: int
    disk_bytes: int


def soak(flags: argparse.Namespace, run: Path) -> Iterator[Sample]:
    """Train, kill and resume until the time, or the run, is over. Raises FaultError where the run fails."""
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
                    raise FaultError(f"the run ended by itself with status {child.returncode}; see {log.name}")
                sample = _sample(child.pid, run, process, begin, started)
                if sample is not None:
                    yield sample
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        command, process = [*COMMAND, "resume", str(run)], process + 1


def _sample(pid: int, run: Path, process: int, begin: float, started: float) -> Sample | None:
    """None while the run has no row yet."""
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
            except FileNotFoundError:  # a generation that went meanwhile
                continue
    return total


def drift(samples: list[Sample], what: str, settle_minutes: float) -> tuple[float, float, float, float]:
    """Least, median and largest value of settled processes, and growth an hour within them.

    One slope is fitted through all processes, each of which has a level of its own.
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
        raise FaultError(f"no process came to {settle_minutes:g} minutes; give more --minutes or less --settle")
    slope = float(np.dot(ages, values) / np.dot(ages, ages))
    return min(levels), float(np.median(levels)), max(levels), slope


def show(samples: list[Sample], settle_minutes: float) -> None:
    """Print the table."""
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
    say(f"{last.minutes:.0f} minutes, {last.timestep:,} steps, {last.process} kills and resumes")
    print(render(("held", "least", "median", "most", "growth an hour"), lines))


def _flags() -> argparse.Namespace:
    parser = Parser(prog="soak.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=count, default=60, metavar="N", help="how long (60)")
    parser.add_argument("--kill-every", type=seed, default=7, metavar="N", help="minutes, more or less; 0: never (7)")
    parser.add_argument("--settle", type=float, default=2.0, metavar="N", help="minutes of a process not looked at (2)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the moments of the kills (0)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for run, log and samples")
    parser.add_argument("train", nargs="+", metavar="FLAG", help="-- and flags of seer-edge train")
    return parser.parse_args()


def _run() -> int:
    flags = _flags()
    try:
        flags.out.mkdir(parents=True)
    except OSError as error:
        raise BadInputError(f"--out {flags.out}: cannot be made ({error.strerror}); name a new folder") from error
    samples = []
    with (flags.out / "soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        for sample in soak(flags, flags.out / "run"):
            samples.append(sample)
            writer.writerow(astuple(sample))
            file.flush()
    if not samples:
        raise FaultError("the run was not seen at work; give more --minutes")
    show(samples, flags.settle)
    return 0


if __name__ == "__main__":
    sys.exit(answer("soak.py", _run))
