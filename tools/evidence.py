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
import sys
from collections.abc import Iterable
from pathlib import Path

from commandline import BadInputError, Parser, any_folder, progress, render, run_tool, writable
from evidence_arms import GAMES_MIN, Arms, parts_of, read_arms
from evidence_figures import draw
from evidence_tables import sections

EVIDENCE = Path(__file__).resolve().parents[1] / "docs" / "results" / "evidence"
RUNS = "runs"
"""Folder of the collected runs in that of their page."""
TABLES, DESCRIPTIONS = ("progress.csv", "episodes.csv"), ("config.json", "summary.json")
"""What is kept of a run."""


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
        "Those of two seeds reach from one to the other, and hold the true mean in about half of all cases.\n\n"
        "- **Evaluation**: mean return of the games without noise at the end.\n"
        "- **Training, last quarter**: mean return of the training games that ended in the last quarter of the steps. "
        f"A run in which fewer than {GAMES_MIN} ended has none.\n"
        "- **CPU seconds**: those of the process, for some rivals without its start and the evaluation.\n"
        "- **TFLOPs**: 10^12 floating-point operations of acting and learning, counted as in the paper (Appendix C).\n"
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
