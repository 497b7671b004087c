"""Collect the runs of docs/results/plan.md, and write their page and figures again from what was collected.

    python tools/evidence.py collect FOLDER...    # copy what a page needs of each finished run of a sweep
    python tools/evidence.py page                 # docs/results/evidence/README.md and its figures

`--page DIR` is for another page: its runs are in DIR/runs, README.md and figures in DIR.

A folder of a run is named GAME__VARIANT__SEED. Variants that differ only in their last part, such as paper-a and
paper-b, are continuations of one seed. The file of a rival is written straight to docs/results/evidence/runs:

    python tools/peers/streaming_q.py --env Krull --json docs/results/evidence/runs/Krull__stream__0.json
    python tools/peers/sb3_dqn.py --env Krull --json docs/results/evidence/runs/Krull__sb3__0.json
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from commandline import BadInputError, Parser, any_folder, progress, render, run_tool, writable
from evidence_arms import MAIN_ARMS, MEASURES, Arms, Games, label, order, parts_of, published, read_arms
from evidence_tables import sections

EVIDENCE = Path(__file__).resolve().parents[1] / "docs" / "results" / "evidence"
RUNS = "runs"
"""Folder of the collected runs in that of their page."""
TABLES, DESCRIPTIONS = ("progress.csv", "episodes.csv"), ("config.json", "summary.json")
"""What is kept of a run."""
CURVES_MAX = 6
"""Arms of a game in the figure of curves. If there are more, only the main arms are shown."""


# --- collecting ----------------------------------------------------------------------------------------------------


def collect(folders: Iterable[Path], target: Path) -> int:
    """Copy the files of each finished run in `folders` to `target`. Raises BadInputError for a folder without runs."""
    from seer_edge.runs.run_folder import RunFolder, is_run

    for folder in folders:
        runs = [path for path in sorted(folder.iterdir()) if is_run(path)] if folder.is_dir() else []
        if not runs:
            raise BadInputError(f"{folder}: holds no runs; give the -o of a sweep")
        finished = [run for run in runs if RunFolder(run).is_finished]
        for run in runs:
            if run in finished:
                parts_of(run)  # before anything is written
            else:
                progress(f"{run.name}: not finished, left out")
        for run in finished:
            kept = _kept(run)
            with writable(target):
                (target / run.name).mkdir(parents=True, exist_ok=True)
                for name, content in kept.items():
                    (target / run.name / name).write_bytes(content)
            print(run.name)
    return 0


def _kept(run: Path) -> dict[str, bytes]:
    """Return the files of a run that a page needs, by name. Raises BadInputError if one cannot be read."""
    try:
        tables = {name: (run / name).read_bytes() for name in TABLES}
        return tables | {name: _without_places(run / name) for name in DESCRIPTIONS}
    except OSError as error:
        raise BadInputError(f"{error.filename}: cannot be read ({error.strerror}); leave the run out") from error


def _without_places(path: Path) -> bytes:
    """Return the JSON of a run with the name of its parent instead of where that was."""
    described = json.loads(path.read_text())
    if described.get("origin"):
        described["origin"]["run"] = Path(described["origin"]["run"]).name
    return f"{json.dumps(described, indent=1)}\n".encode()


# --- figures -------------------------------------------------------------------------------------------------------


def draw(games: Games, folder: Path) -> list[Any]:
    """Write the figures as PNG and CSV, and return them."""
    from seer_edge.reports.drawing import write_png

    names = sorted({name for arms in games.values() for name in arms}, key=order)
    colors = {name: number for number, name in enumerate(names)}
    figures = [
        *(_dots(name, title, games, colors) for name, title in MEASURES.items()),
        _curves(games, colors),
        _costs(games, colors),
    ]
    for figure in figures:
        write_png(figure, folder / f"{figure.name}.png")
        (folder / f"{figure.name}.csv").write_text(figure.csv())
    return figures


def _dots(name: str, title: str, games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.panels import NEUTRAL, Figure, Panel, Series

    panels = []
    for game, arms in games.items():
        series = []
        for place, arm in enumerate(arms.values()):
            x = np.array([value for values in arm.values(name).values() for value in values])
            series.append(Series(arm.name, "dots", colors[arm.name], x, np.full(len(x), -float(place))))
            seeds = list(arm.seeds(name).values())
            if seeds:
                mean = np.array([statistics.fmean(seeds)])
                low, high = np.array([min(seeds)]), np.array([max(seeds)])
                series.append(
                    Series(arm.name, "interval", colors[arm.name], mean, np.array([-float(place)]), low, high)
                )
        places = [label(arm) for arm in arms]
        known = published(game, arms)
        if name == "evaluation" and known:
            x = np.array(known.returns[game], float)
            series.append(Series("published", "dots", NEUTRAL, x, np.full(len(x), -float(len(places)))))
            places.append(f"published, {known.agent}")
        panels.append(Panel(game, tuple(series), places=tuple(places)))
    caption = "Dots: runs. Bar: mean and range of the seeds."
    return Figure(name, f"{title}: mean return", caption, "return", "", tuple(panels), ())


def _curves(games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.figures import mean_line
    from seer_edge.reports.panels import Figure, Key, Panel, Series

    panels = []
    shown = set()
    for game, arms in games.items():
        series = []
        for name in arms if len(arms) <= CURVES_MAX else (name for name in MAIN_ARMS if name in arms):
            shown.add(name)
            lines = [result.curve for result in arms[name].results if len(result.curve[0])]
            only = [Series(name, "run", colors[name], *line) for line in lines[:1]]
            series += mean_line(name, lines, colors[name]) or only
        panels.append(Panel(game, tuple(series)))
    keys = tuple(Key(label(name), "mean", color) for name, color in colors.items() if name in shown)
    caption = (
        "Training games: mean of those of the last 10,000 steps, and of at least five. Line and band: mean and "
        "standard deviation over all runs of an arm. Continuations of one seed are the same up to their beginning."
    )
    return Figure("curves", "Return of training games", caption, "agent steps", "return", tuple(panels), keys)


def _costs(games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.panels import Figure, Key, Panel, Series

    panels = []
    for game, arms in games.items():
        series = []
        for arm in arms.values():
            x = np.array([result.cpu_seconds for result in arm.results])
            y = np.array([result.training for result in arm.results], float)
            series.append(Series(arm.name, "dots", colors[arm.name], x, y))
        panels.append(Panel(game, tuple(series)))
    keys = tuple(Key(label(name), "dots", color) for name, color in colors.items())
    caption = "Each point is a run: its CPU seconds, and its training games of the last quarter."
    return Figure("cost", "Return and cost", caption, "CPU seconds", "return", tuple(panels), keys)


# --- the page ------------------------------------------------------------------------------------------------------


def write_page(out: Path) -> int:
    """Write the figures and `README.md` of the folder `out` from the collected runs in it."""
    games = read_arms(out / RUNS)
    with writable(out):
        figures = draw(games, out)
    total = sum(len(arm.results) for arms in games.values() for arm in arms.values())
    place = out.resolve()  # "." has no name
    flag = "" if place == EVIDENCE else f" --page docs/results/{place.name}"
    parts = [
        f"# {place.name.capitalize()}\n\nThis page is written by `python tools/evidence.py page{flag}` from the files "
        "in `runs`. [The plan](../plan.md) says what the arms and measures are, and what would count against this "
        "project. Agents are Rainbow on games, and CURL + SAC on control tasks.\n\n"
        f"So far: {total} runs on {', '.join(games)}. Intervals in brackets are 95 % bootstraps over seeds. "
        "Those of two seeds reach from one to the other, and hold the true mean in about half of all cases.\n"
    ]
    parts += [f"![{figure.title}]({figure.name}.png)\n\n{figure.caption}\n" for figure in figures]
    for title, about, table in sections(games):
        parts += [f"## {title}\n\n" + (f"{about}\n\n" if about else "") + table]
    (out / "README.md").write_text("\n".join(parts))
    print(render(("game", "arms", "runs"), [_counts(game, arms) for game, arms in games.items()]))
    return 0


def _counts(game: str, arms: Arms) -> tuple[str, ...]:
    return game, f"{len(arms)}", f"{sum(len(arm.results) for arm in arms.values())}"


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="evidence.py", description="Collect the runs of the plan and write their page.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for name, about in (("collect", "copy finished runs of sweeps"), ("page", "write the page and its figures")):
        job = jobs.add_parser(name, help=about)
        job.add_argument(
            "--page",
            type=any_folder,
            default=EVIDENCE,
            metavar="DIR",
            help="folder of the page (docs/results/evidence)",
        )
        if name == "collect":
            job.add_argument("folders", nargs="+", type=any_folder, metavar="FOLDER", help="the -o of a sweep")

    def job_of(flags: argparse.Namespace) -> int:
        return collect(flags.folders, flags.page / RUNS) if flags.job == "collect" else write_page(flags.page)

    return run_tool("evidence.py", lambda: job_of(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
