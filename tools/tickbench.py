"""Measure control in real time: how late ticks come, how old observations are, and what an idle loop does meanwhile.

    python tools/tickbench.py                     the example pole at 30 Hz, on frames, through a freeze, on latents
    python tools/tickbench.py --write-rate 5MB    checkpoints on a card that writes 5 MB a second
    python tools/tickbench.py --busy 1            while another process uses a core fully

The idle loop is a process that only sleeps to the same ticks. It shows the jitter of the machine itself. Evaluations
and checkpoints are part of the run.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from commandline import Parser, count, out_file, progress, render, run_tool, size

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ENV = "pole:Pole-v0"
IDLE = """
import json, sys
sys.path[:0] = sys.argv[2:]
from seer_edge.envs.ticks import Ticks
ticks, until = Ticks(1 / float(sys.argv[1])), sys.stdin
import threading
ended = threading.Event()
threading.Thread(target=lambda: (until.read(), ended.set()), daemon=True).start()
while not ended.is_set():
    ticks.wait()
late, missed = ticks.drain()
lateness = {"p50": 1e3 * late.quantile(.5), "p99": 1e3 * late.quantile(.99), "worst": 1e3 * late.worst}
print(json.dumps({"ticks": late.count, "missed": missed, "lateness_ms": lateness, "later_than_5_ms": late.above(.005)}))
"""
BUSY = "while True: pass"
LEAST_STEPS = 200
"""Learning starts after a fifth of them, and needs a window of 20 steps."""
COLUMNS = ("ticks", "missed", "p50 ms", "p99 ms", "worst ms", "later than 5 ms", "frame to action p99 ms")


def throttle(bytes_a_second: int) -> None:
    """Let every write to a file of a run take as long as on a card that writes `bytes_a_second`."""
    from seer_runtime.durable import files

    write = files._write

    def slowly(descriptor: int, data: memoryview) -> int:
        written = write(descriptor, data)
        time.sleep(written / bytes_a_second)
        return written

    files._write = slowly


def train(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and return `summary.json`."""
    import seer_edge

    sys.path.insert(0, str(EXAMPLES))
    if flags.write_rate is not None:
        throttle(flags.write_rate)
    result = seer_edge.train(
        flags.env,
        hz=float(flags.hz),
        mem_budget=flags.mem_budget,
        total_timesteps=flags.steps,
        freeze_at=int(0.4 * flags.steps),
        eval_every=int(0.45 * flags.steps),
        eval_episodes=2,
        log_every=max(1, flags.steps // 50),
        checkpoint_every=max(1, flags.steps // 5),
        run_dir=folder,
        set={"learning_starts": min(1_600, flags.steps // 5)},
    )
    return dict(result.summary)


def by_phase(path: Path, late_ms: float) -> list[tuple[str, ...]]:
    """Return rows of the table for frames and for latents, from `progress.csv`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for name, frozen in (("on frames", "0"), ("on latents", "1")):
        own = [row for row in rows if row["seer/frozen"] == frozen]
        if not own:
            continue

        def column(name: str, own: list[dict[str, str]] = own) -> list[float]:
            return [float(row[f"control/{name}"]) for row in own]

        intervals = sum(worst > late_ms for worst in column("late_worst_ms"))
        lines.append(
            (
                name,
                f"{sum(column('ticks')):,.0f}",
                f"{sum(column('missed')):,.0f}",
                f"{_median(column('late_p50_ms')):.2f}",
                f"{_median(column('late_p99_ms')):.2f}",
                f"{max(column('late_worst_ms')):.2f}",
                f"in {intervals} of {len(own)} intervals",
                f"{_median(column('age_p99_ms')):.2f}",
            )
        )
    return lines


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a loop's ticks and of their lateness."""
    ticks, late, later = figures["ticks"], figures["lateness_ms"], figures["later_than_5_ms"]
    times = (f"{late[name]:.2f}" for name in ("p50", "p99", "worst"))
    return f"{ticks:,}", f"{figures['missed']:,}", *times, f"{later:,} ({later / max(ticks, 1):.3%})"


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(flags: argparse.Namespace) -> int:
    """Measure and print the tables; return the exit status."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", IDLE, str(flags.hz), str(root), str(root / "runtime")]
    with tempfile.TemporaryDirectory() as folder:
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(flags.busy)]
        idle = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            progress(f"{flags.steps:,} ticks at {flags.hz} Hz, about {flags.steps / flags.hz / 60:.0f} min")
            run = Path(folder) / "run"
            summary = train(flags, run)
            printed, _ = idle.communicate()
        finally:
            for process in (*busy, idle):
                process.kill()
        lines = by_phase(run / "progress.csv", 5.0)
    figures, idle_loop = summary["real_time"], json.loads(printed)
    lines.append(("whole run", *_cells(figures), f"{figures['age_of_observation_ms']['p99']:.2f}"))
    lines.append(("idle loop", *_cells(idle_loop), "-"))
    frozen = summary["freeze"]
    freeze = f"refused ({summary['freeze_refused']})" if frozen is None else f"{frozen['seconds']:.1f} s"
    print(
        f"{flags.env} at {flags.hz} Hz, {flags.busy} busy processes meanwhile; {figures['updates_per_step']} updates a "
        f"step; {figures['dropped_steps']} steps not stored; freeze {freeze}"
    )
    print(render(("", *COLUMNS), lines))
    if flags.json is not None:
        flags.json.write_text(json.dumps({"real_time": figures, "idle_loop": idle_loop}, indent=1) + "\n")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="tickbench.py", description="Measure control in real time.")
    parser.add_argument("--env", default=ENV, help=f"environment ({ENV})")
    parser.add_argument("--hz", type=count, default=30, metavar="N", help="ticks a second (30)")
    parser.add_argument(
        "--steps",
        type=lambda text: count(text, LEAST_STEPS),
        default=9_000,
        metavar="N",
        help="ticks of the run (9000)",
    )
    parser.add_argument("--mem-budget", default="20MB", metavar="SIZE", help="budget of observations (20MB)")
    parser.add_argument(
        "--write-rate", type=size, metavar="SIZE", help="bytes a second that the disk writes (as it is)"
    )
    parser.add_argument("--busy", type=lambda text: count(text, 0), default=0, metavar="N", help="busy processes (0)")
    parser.add_argument("--json", type=out_file, metavar="FILE", help="also write the figures to this file")
    return run_tool("tickbench.py", lambda: measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
