"""Compare ways to train that have no flag, by runs that continue one checkpoint.

    python tools/armruns.py run BASE OUT --arms kept,blank    # fork BASE and finish six continuations of each arm
    python tools/armruns.py table OUT OUT ...                 # print the results, one OUT for each game

The arms:

- `kept`: training as it is.
- `blank`: a lost life blanks the frame stack.
- `fresh`: after the freeze, old rows are overwritten before the replay grows (`fresh_rows.py`).
- `twice`: the encoder takes each contrastive step of CURL twice (`contrast_twice.py`).

Continuation i of each arm has the seed of BASE + 1 + i, so that no two of an arm share random streams. `run` can be
interrupted and repeated. The table has the mean return of the training games that ended in the last quarter of a
continuation.
"""

import csv
import json
import math
import signal
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from commandline import BadInputError, Parser, count, render, run_tool
from forks import RESUME, config_of, finish_all, fork


@dataclass(frozen=True)
class Arm:
    """What an arm changes: fields of the configuration, or the command that continues a run."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = RESUME


def _own_script(name: str) -> Arm:
    return Arm(command=(sys.executable, str(Path(__file__).with_name(name))))


BASELINE = "kept"
ARMS = {
    BASELINE: Arm(),
    "blank": Arm({"blank_at_lost_life": True}),
    "fresh": _own_script("fresh_rows.py"),
    "twice": _own_script("contrast_twice.py"),
}


def run_all(base: Path, out: Path, arms: list[str], continuations: int, only: list[str], jobs: int) -> int:
    """Fork the continuations of each arm from `base` and finish them."""
    names = [f"{arm}-{number}" for number in range(continuations) for arm in arms]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise BadInputError(f"--only {unknown[0]}: no such continuation; name one of {', '.join(names)}")
    seed = config_of(base).seed + 1
    commands = {}
    for name in names:
        if name in only or not only:
            arm, _, number = name.partition("-")
            # The training games are the measure, so one episode is enough for the evaluation at the end.
            fork(base, out / name, **ARMS[arm].changes, eval_episodes=1, seed=seed + int(number))
            commands[out / name] = ARMS[arm].command
    finish_all(commands, jobs)
    return 0


def late_return(run: Path) -> tuple[float, int] | None:
    """Return the mean return and the number of training games in the last quarter; None for an unfinished run."""
    config, summary = (json.loads((run / name).read_text()) for name in ("config.json", "summary.json"))
    if summary["status"] != "finished":
        return None
    total, begin = config["total_timesteps"], min(summary["resumed_at"])
    with (run / "episodes.csv").open(newline="") as file:
        games = [(int(row["step"]), float(row["return"])) for row in csv.DictReader(file)]
    returns = [value for step, value in games if step > total - (total - begin) / 4]
    return (statistics.fmean(returns), len(returns)) if returns else None


def print_table(outs: list[Path]) -> int:
    """Print one table for each game, with one line for each continuation and one for each arm."""
    for out in outs:
        runs = sorted(path.parent for path in out.glob("*/summary.json"))
        if not runs:
            raise BadInputError(f"{out}: has no runs of armruns.py; give the OUT of `armruns.py run`")
        arms: dict[str, list[float]] = {}
        lines = []
        for run in runs:
            found = late_return(run)
            lines.append((run.name, "-", "0") if found is None else (run.name, f"{found[0]:,.1f}", f"{found[1]}"))
            if found is not None:
                arms.setdefault(run.name.partition("-")[0], []).append(found[0])
        print(f"{json.loads((runs[0] / 'config.json').read_text())['env_name']}, training games of the last quarter")
        print(render(("continuation", "mean return", "games"), lines))
        for arm, means in arms.items():
            spread = f" ± {statistics.stdev(means):,.1f}" if len(means) > 1 else ""
            print(f"{arm}: {statistics.fmean(means):,.1f}{spread} (mean and standard deviation of {len(means)})")
        for arm in (arm for arm in arms if arm != BASELINE):
            _print_difference(arm, arms)
        print()
    return 0


def _print_difference(arm: str, arms: Mapping[str, list[float]]) -> None:
    both = arms.get(BASELINE, []), arms[arm]
    if min(map(len, both)) > 1:
        error = math.sqrt(sum(statistics.variance(means) / len(means) for means in both))
        difference = statistics.fmean(both[0]) - statistics.fmean(both[1])
        print(f"{BASELINE} - {arm}: {difference:,.1f} ± {error:,.1f} (standard error)")


def main() -> int:
    """Run the command line; return the exit status."""

    def stop(signum: int, frame: object) -> NoReturn:
        sys.exit(128 + signum)  # runs the `finally` that stops the children

    def arms(text: str) -> list[str]:
        found = text.split(",")
        if not set(found) <= ARMS.keys():
            raise BadInputError(f"--arms {text}: unknown arm; name some of {','.join(ARMS)}")
        return found

    def run() -> int:
        parser = Parser(prog="armruns.py", description=(__doc__ or "").splitlines()[0])
        commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
        runs = commands.add_parser("run", help="fork BASE into the continuations of each arm and finish them")
        runs.add_argument("base", type=Path, metavar="BASE", help="folder of a run, stopped where the arms start")
        runs.add_argument("out", type=Path, metavar="OUT", help="folder of the continuations of one game")
        runs.add_argument("--arms", type=arms, required=True, metavar="A,B", help=f"some of {','.join(ARMS)}")
        runs.add_argument("--continuations", type=count, default=6, metavar="N", help="continuations of each arm (6)")
        runs.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these continuations, like kept-0")
        runs.add_argument("--jobs", type=count, default=1, metavar="N", help="continuations at a time (1)")
        tables = commands.add_parser("table", help="print the results")
        tables.add_argument("out", type=Path, nargs="+", metavar="OUT", help="an OUT of the command run")
        flags = parser.parse_args()
        if flags.command == "table":
            return print_table(flags.out)
        signal.signal(signal.SIGTERM, stop)
        return run_all(flags.base, flags.out, flags.arms, flags.continuations, flags.only, flags.jobs)

    return run_tool("armruns.py", run)


if __name__ == "__main__":
    sys.exit(main())
