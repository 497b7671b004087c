"""Compare latent codecs by whole runs that continue from one checkpoint before the freeze.

    python tools/codecruns.py run BASE OUT         # fork BASE, a run stopped before its freeze, and finish each fork
    python tools/codecruns.py table OUT OUT ...    # print one table for each OUT, one game each

Codecs have no effect before the freeze, so all of them share one pixel phase bit for bit. `run` can be interrupted and
repeated. It saves data of the float32 run that its ring overwrites later: the latents that codecs were calibrated on,
and counts of the dimensions that were zero at the freeze.
"""

import csv
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import codecbench
from commandline import BadInputError, Parser, count, image_file, out_file, render, run_tool
from forks import finish_all, fork
from kept_latents import Kept, keep

REFERENCE = "float32"
CODECS = (REFERENCE, "uint8", "uint4")
KEPT = "freeze.npz"
"""Name of the file of saved latents in OUT; see `kept_latents`."""


def run_all(base: Path, out: Path, codecs: list[str]) -> int:
    """Fork `base`, a run before its freeze, once for each codec, and finish the forks."""

    def watch(run: Path) -> None:
        if run.name == REFERENCE:
            keep(run, out / KEPT)

    for codec in codecs:
        fork(base, out / codec, before_freeze=True, latent_codec=codec)
    finish_all([out / codec for codec in codecs], watch=watch)
    return 0


# --- results -----------------------------------------------------------------------------------------------------

Evaluations = dict[int, tuple[float, float]]
"""By step, the mean and standard deviation of the returns."""


@dataclass(frozen=True)
class Outcome:
    """The results of one run."""

    game: str
    codec: str
    status: str
    games: int  # episodes of an evaluation
    rows: int
    clip_rate: float | None
    evaluations: Evaluations
    figures: codecbench.Figures | None  # None unless the float32 run has finished


def read_outcomes(out: Path, rows: int) -> list[Outcome]:
    """Read the results of each run in `out`. Raises BadInputError where there are none."""
    runs = [out / codec for codec in CODECS if (out / codec / "summary.json").exists()]
    if not runs:
        raise BadInputError(f"{out}: has no runs of codecruns.py; give the OUT of `codecruns.py run`")
    measured = measure(out, [run.name for run in runs], rows)
    return [_outcome(run, measured.get(run.name)) for run in runs]


def _outcome(run: Path, figures: codecbench.Figures | None) -> Outcome:
    config, summary = (json.loads((run / name).read_text()) for name in ("config.json", "summary.json"))
    with (run / "progress.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    clip_rate = lines[-1].get("replay/clip_rate")
    return Outcome(
        game=config["env_name"],
        codec=run.name,
        status=summary["status"],
        games=config["eval_episodes"],
        rows=int(lines[-1]["replay/rows"]),
        clip_rate=float(clip_rate) if clip_rate else None,
        evaluations={
            int(line["time/total_timesteps"]): (float(line["eval/mean_reward"]), float(line["eval/std_reward"]))
            for line in lines
            if line["eval/mean_reward"]
        },
        figures=figures,
    )


def measure(out: Path, codecs: list[str], rows: int) -> dict[str, codecbench.Figures]:
    """Measure each codec on the newest latents of the float32 run and on the outputs of its head."""
    if REFERENCE not in codecs or not (out / KEPT).exists():
        return {}
    session, _ = codecbench.open_session(out / REFERENCE)
    try:
        kept, held = Kept.read(out / KEPT), session.replay.store.rows
        later = codecbench.latents_of(session, 0, held, rows)
        return {codec: codecbench.figures(session, codec, kept.seen, later) for codec in codecs}
    finally:
        session.env.close()


def print_table(outs: list[Path], rows: int) -> list[Outcome]:
    """Print one table for each game; return the results."""
    everything = []
    for out in outs:
        outcomes = read_outcomes(out, rows)
        everything += outcomes
        steps = sorted({step for outcome in outcomes for step in outcome.evaluations})
        header = ("codec", "rows", "clipped", *(f"{step:,}" for step in steps), "Q mean", "Q max", "same choice")
        print(f"{outcomes[0].game}, return of {outcomes[0].games} games, mean ± std, at step")
        print(render(header, [_cells(outcome, steps) for outcome in outcomes]))
        if (out / KEPT).exists():
            print(Kept.read(out / KEPT).describe())
        print()
    return everything


def _cells(outcome: Outcome, steps: list[int]) -> tuple[str, ...]:
    found, figures = outcome.evaluations, outcome.figures
    returns = ("-" if step not in found else "{:,.0f} ± {:,.0f}".format(*found[step]) for step in steps)
    errors = ["-"] * 3
    if figures is not None:
        choice = "-" if figures.same_choice is None else f"{figures.same_choice:.1%}"
        errors = [f"{figures.output_error:.2%}", f"{figures.largest_output_error:.1%}", choice]
    clipped = "-" if outcome.clip_rate is None else f"{outcome.clip_rate:.1e}"
    name = outcome.codec if outcome.status == "finished" else f"{outcome.codec} ({outcome.status})"
    return (name, f"{outcome.rows:,}", clipped, *returns, *errors)


def write_csv(outcomes: list[Outcome], path: Path) -> None:
    """Write one line for each evaluation."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("game", "codec", "step", "games", "mean_return", "std_return"))
        for outcome in outcomes:
            for step, (mean, spread) in sorted(outcome.evaluations.items()):
                lines.writerow((outcome.game, outcome.codec, step, outcome.games, f"{mean:.4f}", f"{spread:.4f}"))


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Plot one panel for each game and one line for each codec."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    games = list(dict.fromkeys(outcome.game for outcome in outcomes))
    figure, panels = plt.subplots(1, len(games), figsize=(4.7 * len(games), 4), squeeze=False, layout="constrained")
    for game, panel in zip(games, panels[0], strict=True):
        for outcome in (outcome for outcome in outcomes if outcome.game == game):
            steps = sorted(outcome.evaluations)
            means, spreads = zip(*(outcome.evaluations[step] for step in steps), strict=True)
            panel.errorbar(
                [step / 1000 for step in steps],
                means,
                yerr=spreads,
                marker="o",
                markersize=3,
                capsize=2,
                label=outcome.codec,
            )
        panel.set_title(game)
        panel.set_xlabel("thousand agent steps")
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("evaluation return, mean ± std of its games")
    panels[0][0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Run the command line; return the exit status."""

    def stop(signum: int, frame: object) -> NoReturn:
        sys.exit(128 + signum)  # runs the `finally` that stops the children

    def run() -> int:
        parser = Parser(prog="codecruns.py", description=(__doc__ or "").splitlines()[0])
        commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
        runs = commands.add_parser("run", help="fork BASE once for each codec and finish the forks")
        runs.add_argument("base", type=Path, metavar="BASE", help="a run's folder, stopped before its freeze")
        runs.add_argument("out", type=Path, metavar="OUT", help="folder of the forks of one game")
        runs.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS, metavar="NAME", help=", ".join(CODECS))
        tables = commands.add_parser("table", help="print the results")
        tables.add_argument("out", type=Path, nargs="+", metavar="OUT", help="an OUT of the command run")
        tables.add_argument("--rows", type=count, default=3_000, metavar="N", help="rows to measure Q on (3000)")
        tables.add_argument("--csv", type=out_file, metavar="FILE", help="write all evaluations to this file")
        tables.add_argument("--plot", type=image_file, metavar="FILE", help="plot the evaluations to this file")
        flags = parser.parse_args()
        if flags.command == "run":
            signal.signal(signal.SIGTERM, stop)
            return run_all(flags.base, flags.out, list(flags.codecs))
        outcomes = print_table(flags.out, flags.rows)
        if flags.csv is not None:
            write_csv(outcomes, flags.csv)
        if flags.plot is not None:
            plot(outcomes, flags.plot)
        return 0

    return run_tool("codecruns.py", run)


if __name__ == "__main__":
    sys.exit(main())
