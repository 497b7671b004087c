"""Measure what an agent learns in a given time, in real time and with an environment that is stepped by the learner.

    python tools/pacebench.py                          the example pole at 30 Hz, ten minutes of each, three seeds
    python tools/pacebench.py --update-time 0.1s      on a computer that needs 100 ms for an update

Three ways to train on the pole:

    real time    --hz: the agent acts at each tick, and learns as much as fits
    lockstep     without --hz: the pole falls while the agent learns
    paused       without --hz, and the pole stands still while the agent learns, as in a simulation or with a person who
                 holds it

Each ends after the same time. Its policy then plays ten episodes in real time. Runs of one seed train side by side, and
spreads are standard deviations.
"""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from children import child_command, serve
from commandline import EXIT_FAULT, FaultError, Parser, count, duration, progress, render, run_tool

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))
from pole import Pole

WAYS = {"real time": "pole:Pole-v0", "lockstep": "pole:Pole-v0", "paused": "pacebench:PausedPole"}
"""By way of training, its environment."""
COLUMNS = ("seed", "steps", "updates", "return while training", "return in real time")
MEM_BUDGET = "0.15GB"
# The agent makes few updates, so it learns from short windows, soon.
SETTINGS = {"learning_starts": 300, "n_step": 5, "learning_rate": 3e-4, "target_update_steps": 500}


class PausedPole(Pole):
    """A pole that falls only while the agent waits for the next tick."""

    def __init__(self, steps: int = 300, hz: int = 30) -> None:
        self._seconds, self._period = 0.0, 1 / hz
        super().__init__(steps, clock=lambda: self._seconds)

    def wait_for_tick(self) -> None:
        """Let the pole fall for one period, which takes as long."""
        time.sleep(self._period)
        self._seconds += self._period


def slow_updates(seconds: float) -> None:
    """Let each update of Rainbow take `seconds` at least, without using the processor."""
    from seer_edge.agents.rainbow import RainbowAgent

    update = RainbowAgent.update

    def slowly(agent: RainbowAgent, *batch: Any) -> Any:
        until = time.monotonic() + seconds
        try:
            return update(agent, *batch)
        finally:
            time.sleep(max(0.0, until - time.monotonic()))

    RainbowAgent.update = slowly  # type: ignore[method-assign, assignment]


def learn(folder: str, way: str, seed: int, seconds: float, hz: int, update_seconds: float) -> None:
    """Train for `seconds`, in a child."""
    import seer_edge

    slow_updates(update_seconds)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    own: dict[str, Any] = {
        "real time": {"hz": float(hz), "min_updates_per_step": 0.0},
        "lockstep": {},
        "paused": {"env_kwargs": {"hz": hz}},
    }
    seer_edge.train(
        WAYS[way],
        **own[way],
        run_dir=folder,
        seed=seed,
        mem_budget=MEM_BUDGET,
        total_timesteps=int(100 * seconds * hz),  # never reached: the time is the limit
        freeze_at="never",
        log_every=max(1, int(seconds * hz) // 50),
        set=SETTINGS,
    )


def returns_of(run: Path, hz: int, episodes: int) -> tuple[int, int, float, list[float]]:
    """Return a run's steps, updates, mean training return of its last quarter, and returns in real time."""
    import seer_edge

    with (run / "episodes.csv").open(newline="") as file:
        games = list(csv.DictReader(file))
    if not games:
        raise FaultError(f"{run.name}: no episode has ended; give more --time")
    steps = int(games[-1]["step"])
    late = [float(game["return"]) for game in games if int(game["step"]) > 0.75 * steps]
    bundle = run.with_suffix(".policy")
    seer_edge.export(run, bundle)
    played = seer_edge.record(
        WAYS["real time"], run.with_suffix(".demos"), policy=str(bundle), episodes=episodes, hz=float(hz)
    )
    return steps, int(games[-1]["updates"]), statistics.fmean(late), list(played.returns)


def measure(flags: argparse.Namespace) -> int:
    """Measure and print the table; return the exit status."""
    lines: list[tuple[str, ...]] = []
    means: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(flags.seeds):
            progress(f"seed {seed}: {flags.time:.0f} s, then {3 * flags.episodes} episodes in real time")
            runs = {way: Path(folder) / f"{way.replace(' ', '-')}-{seed}" for way in WAYS}
            settings = {"seed": seed, "seconds": flags.time, "hz": flags.hz, "update_seconds": flags.update_time}
            children = [
                subprocess.Popen(
                    child_command(__file__, "learn", folder=str(run), way=way, **settings), stdout=subprocess.DEVNULL
                )
                for way, run in runs.items()
            ]
            if sum(child.wait() for child in children):
                return EXIT_FAULT
            for way, run in runs.items():
                steps, updates, late, played = returns_of(run, flags.hz, flags.episodes)
                means[way].append(statistics.fmean(played))
                spread = f"{means[way][-1]:.0f}{_spread(played)}"
                lines.append((way, f"{seed}", f"{steps:,}", f"{updates:,}", f"{late:.0f}", spread))
                progress("  ".join(lines[-1]))
    print(render(("", *COLUMNS), lines))
    for way, values in means.items():
        print(f"{way}: {statistics.fmean(values):.0f}{_spread(values)} (in real time, over seeds)")
    return 0


def _spread(values: list[float]) -> str:
    return f" ± {statistics.stdev(values):.0f}" if len(values) > 1 else ""


def main() -> int:
    """Run the command line; return the exit status."""
    if serve({"learn": learn}):
        return 0
    parser = Parser(prog="pacebench.py", description="Measure what an agent learns in a given time.")
    parser.add_argument("--time", type=duration, default=600.0, metavar="TIME", help="time of each run (10min)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds (3)")
    parser.add_argument("--episodes", type=count, default=10, metavar="N", help="episodes at the end (10)")
    parser.add_argument("--hz", type=count, default=30, metavar="N", help="ticks a second in real time (30)")
    parser.add_argument(
        "--update-time",
        type=duration,
        default=0.0,
        metavar="TIME",
        help="least time of an update, such as 0.1s (as it is)",
    )
    return run_tool("pacebench.py", lambda: measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
