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
import shutil
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from commandline import BadInputError, Parser, any_folder, progress, render, run_tool, writable
from evidence_arms import ARMS, MEASURES, Arms, Games, Result, fixed_steps, label, order, parts_of, read_arms

EVIDENCE = Path(__file__).parents[1] / "docs" / "results" / "evidence"
RUNS = "runs"
"""Folder of the collected runs in that of their page."""
TABLES, DESCRIPTIONS = ("progress.csv", "episodes.csv"), ("config.json", "summary.json")
"""What is kept of a run."""
MAIN_ARMS = ("whole", "bounded", "paper", "uint8", "uint4")
PAIRS = (
    ("paper", "bounded"),
    ("uint8", "whole"),
    ("uint4", "whole"),
    ("uint8", "paper"),
    ("auto", "paper"),
    ("prioritized", "whole"),
)


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
            with writable(target):
                (target / run.name).mkdir(parents=True, exist_ok=True)
                for name in TABLES:
                    shutil.copyfile(run / name, target / run.name / name)
                for name in DESCRIPTIONS:
                    (target / run.name / name).write_text(_without_places(run / name))
            print(run.name)
    return 0


def _without_places(path: Path) -> str:
    """Return the JSON of a run with the name of its parent instead of where that was."""
    described = json.loads(path.read_text())
    if described.get("origin"):
        described["origin"]["run"] = Path(described["origin"]["run"]).name
    return json.dumps(described, indent=1) + "\n"


# --- tables --------------------------------------------------------------------------------------------------------


def scores(arms: Arms) -> str:
    """Return the table of one game: each arm's scores by seed, mean, and cost."""
    from seer_edge.reports.statistics import mean_interval

    header = ("Arm", "Frozen at", "Seeds", "Runs", *MEASURES.values(), "CPU seconds", "Rows held", "Peak memory, MB")
    lines = []
    for arm in arms.values():
        cells = []
        for measure in MEASURES:
            seeds = list(arm.seeds(measure).values())
            interval = mean_interval([seeds]) if seeds else None
            text = f"{statistics.fmean(seeds):,.0f}" if seeds else "-"
            cells.append(text + (f" [{interval.low:,.0f}, {interval.high:,.0f}]" if interval else ""))
        lines.append(
            (
                label(arm.name),
                _freeze_steps(arm.results),
                f"{len(arm.by_seed)}",
                f"{len(arm.results)}",
                *cells,
                f"{statistics.fmean(result.cpu_seconds for result in arm.results):,.0f}",
                f"{statistics.fmean(result.rows for result in arm.results):,.0f}",
                f"{statistics.fmean(result.rss_peak_bytes for result in arm.results) / 1e6:,.0f}",
            )
        )
    return _table(header, lines)


def _freeze_steps(results: Sequence[Result]) -> str:
    steps = sorted({result.freeze_step for result in results if result.freeze_step is not None})
    return ", ".join(f"{step:,}" for step in steps) or "-"


def differences(games: Games) -> str:
    """Return the table of the differences between arms of the same seed."""
    lines = []
    for first, second in PAIRS:
        for game, arms in games.items():
            if first in arms and second in arms:
                cells = [_difference(arms[first].seeds(name), arms[second].seeds(name)) for name in MEASURES]
                lines.append((f"{first} - {second}", game, *cells))
    return _table(("Arms", "Game", *MEASURES.values()), lines)


def _difference(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    values = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:+,.0f} (one seed)"
    return (
        f"{statistics.fmean(values):+,.0f} ± {statistics.stdev(values) / len(values) ** 0.5:,.0f} ({len(values)} seeds)"
    )


def aggregates(games: Games) -> str:
    """Return the table of human-normalized scores over all games that have every main arm and a human's score."""
    from seer_edge.reports.reference_scores import human_normalized
    from seer_edge.reports.statistics import interquartile_interval, interquartile_mean, mean_interval

    def cell(value: float, interval: Any) -> str:
        return f"{value:.2f}" + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else "")

    full = {
        game: arms
        for game, arms in games.items()
        if arms.keys() >= set(MAIN_ARMS) and human_normalized(game, 0.0) is not None
    }
    lines = []
    for name in MAIN_ARMS if len(full) > 1 else ():
        cells = []
        for measure in MEASURES:
            strata = [
                [cast("float", human_normalized(game, value)) for value in arms[name].seeds(measure).values()]
                for game, arms in full.items()
            ]
            joined = np.concatenate(strata)
            cells += [
                cell(float(np.mean(joined)), mean_interval(strata)),
                cell(float(interquartile_mean(joined)), interquartile_interval(strata)),
            ]
        lines.append((ARMS[name], f"{len(joined)}", *cells))
    names = [f"{title}: {what}" for title in MEASURES.values() for what in ("mean", "interquartile mean")]
    return _table(("Arm", "Seeds and games", *names), lines)


def spreads(games: Games) -> str:
    """Return the table of standard deviations between seeds, and between continuations of one seed."""
    lines = []
    for game, arms in games.items():
        for arm in arms.values():
            cells = []
            for measure in MEASURES:
                values = arm.values(measure)
                seeds = list(arm.seeds(measure).values())
                between = f"{statistics.stdev(seeds):,.0f}" if len(seeds) > 1 else "-"
                repeated = [statistics.variance(found) for found in values.values() if len(found) > 1]
                within = f"{statistics.fmean(repeated) ** 0.5:,.0f}" if repeated else "-"
                cells += [between, within]
            if any(cell != "-" for cell in cells):
                lines.append((game, label(arm.name), *cells))
    names = [f"{name}: {what}" for name in MEASURES.values() for what in ("between seeds", "between continuations")]
    return _table(("Game", "Arm", *names), lines)


def regrets(games: Games) -> str:
    """Return the table of `--freeze-at auto`: its step, its return, the best fixed step, and the difference."""
    lines = []
    for game, arms in games.items():
        for seed, results in arms["auto"].by_seed.items() if "auto" in arms else ():
            for name, label_of_measure in MEASURES.items():
                fixed = {arm: arms[arm].seeds(name).get(seed) for arm in fixed_steps(arms)}
                known = {arm: value for arm, value in fixed.items() if value is not None}
                own = arms["auto"].seeds(name).get(seed)
                if own is None or not known:
                    continue
                best = max(known, key=lambda arm: known[arm])
                lines.append(
                    (
                        game,
                        f"{seed}",
                        label_of_measure,
                        _freeze_steps(results) if results[0].freeze_step else "never",
                        f"{own:,.0f}",
                        _freeze_steps(arms[best].by_seed[seed]),
                        f"{known[best]:,.0f}",
                        f"{known[best] - own:+,.0f}",
                        f"{statistics.fmean(known.values()):,.0f}",
                    )
                )
    header = (
        "Game",
        "Seed",
        "Measure",
        "Step of auto",
        "Return",
        "Best fixed step",
        "Its return",
        "Regret",
        "Mean of all",
    )
    return _table(header, lines)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


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
    from seer_edge.reports.panels import Figure, Panel, Series

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
        panels.append(Panel(game, tuple(series), places=tuple(label(arm) for arm in arms)))
    caption = "Dots: runs. Bar: mean and range of the seeds."
    return Figure(name, f"{title}: mean return", caption, "return", "", tuple(panels), ())


def _curves(games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.figures import mean_line
    from seer_edge.reports.panels import Figure, Key, Panel, Series

    panels = []
    for game, arms in games.items():
        series = []
        for name in (name for name in MAIN_ARMS if name in arms):
            lines = [result.curve for result in arms[name].results]
            only = [Series(name, "run", colors[name], *line) for line in lines[:1]]
            series += mean_line(name, lines, colors[name]) or only
        panels.append(Panel(game, tuple(series)))
    keys = tuple(Key(ARMS[name], "mean", colors[name]) for name in MAIN_ARMS if name in colors)
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
    flag = "" if out == EVIDENCE else f" --page docs/results/{out.name}"
    parts = [
        f"# {out.name.capitalize()}\n\nThis page is written by `python tools/evidence.py page{flag}` from the files in "
        "`runs`. [The plan](../plan.md) says what the arms and measures are, and what would count against this "
        "project. Agents are Rainbow on games, and CURL + SAC on control tasks.\n\n"
        f"So far: {total} runs on {', '.join(games)}. Intervals in brackets are 95 % bootstraps over seeds.\n"
    ]
    parts += [f"![{figure.title}]({figure.name}.png)\n\n{figure.caption}\n" for figure in figures]
    parts += [f"## {game}\n\n{scores(arms)}" for game, arms in games.items()]
    for title, about, table in (
        ("All games", "Human-normalized scores.", aggregates(games)),
        ("Differences", "Mean over seeds, with its standard error.", differences(games)),
        ("Spread", "Standard deviations.", spreads(games)),
        (
            "The automatic freeze",
            "Regret: the best fixed step less the automatic one. Mean of all: of the fixed steps.",
            regrets(games),
        ),
    ):
        parts += [f"## {title}\n\n{about}\n\n{table}"] if table else []
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
