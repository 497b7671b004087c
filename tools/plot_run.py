"""Plot return and memory of a run over its steps, from `progress.csv` to `progress.png` in its folder.

python tools/plot_run.py RUN [-o FILE]
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl
from commandline import BadInputError, Parser, image_file, run_tool

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Rows = list[dict[str, str]]


def series(rows: Rows, column: str) -> tuple[list[int], list[float]]:
    """Return steps and values of the rows in which `column` is not empty. It is missing in some older runs."""
    filled = [row for row in rows if row.get(column)]
    return [int(row["time/total_timesteps"]) for row in filled], [float(row[column]) for row in filled]


def plot(rows: Rows, title: str, path: Path) -> None:
    """Plot two panels over the same steps, with a dotted line at the freeze."""
    figure, (returns, memory) = plt.subplots(2, 1, figsize=(8, 6.5), sharex=True, layout="constrained")
    _plot_returns(returns, rows)
    _plot_memory(memory, rows)
    frozen = [int(row["time/total_timesteps"]) for row in rows if row["seer/frozen"] == "1"]
    if frozen:
        for axes in (returns, memory):
            axes.axvline(frozen[0], color="0.5", linestyle=":", label="freeze")
    for axes in (returns, memory):
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.25)
    returns.set_title(title)
    memory.set_xlabel("agent steps")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_returns(axes: Axes, rows: Rows) -> None:
    axes.plot(*series(rows, "rollout/ep_rew_mean"), label="training episodes of the last 10,000 steps, mean")
    steps, means = series(rows, "eval/mean_reward")
    spreads = series(rows, "eval/std_reward")[1]
    axes.errorbar(steps, means, yerr=spreads, fmt="o", capsize=3, label="evaluation, mean ± std")
    axes.set_ylabel("return")


def _plot_memory(axes: Axes, rows: Rows) -> None:
    for column, label in (
        ("memory/rss_bytes", "process RSS"),
        ("memory/anon_bytes", "of it anonymous"),
        ("memory/budget_bytes", "budget"),
        ("memory/observation_bytes", "observations"),
        ("memory/workspace_bytes", "workspace"),
    ):
        steps, values = series(rows, column)
        if not steps:
            continue
        axes.plot(steps, [value / 1e6 for value in values], label=label, linestyle="--" if "budget" in column else "-")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    capacity = axes.twinx()
    capacity.plot(*series(rows, "replay/rows"), color="tab:purple", label="rows in the replay (right)")
    steps, limits = series(rows, "replay/capacity")
    capacity.step(steps, limits, where="post", color="tab:purple", linestyle=":", label="its capacity (right)")
    capacity.set_ylabel("rows")
    capacity.set_ylim(bottom=0)
    capacity.legend(frameon=False, fontsize="small", loc="lower right")


def draw(run: Path, out: Path | None) -> int:
    """Write the image and print its path. Raises BadInputError."""
    try:
        config = json.loads((run / "config.json").read_text())
        with (run / "progress.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{run}: not a run's folder ({error}); give the folder of a run") from error
    if not rows:
        raise BadInputError(f"{run}: progress.csv has no rows yet; wait for its first interval")
    title = f"{config['env']}, {config['algo']}, seed {config['seed']}, {config['mem_budget_bytes']:,} B"
    path = out or run / "progress.png"
    try:
        plot(rows, title, path)
    except OSError as error:
        raise BadInputError(f"--out {path}: cannot be written ({error.strerror}); name a file elsewhere") from error
    print(f"wrote {path}")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""

    def job() -> int:
        parser = Parser(prog="plot_run.py", description="Plot return and memory of a run over its steps.")
        parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
        parser.add_argument("-o", "--out", type=image_file, metavar="FILE", help="image to write (RUN/progress.png)")
        flags = parser.parse_args()
        return draw(flags.run, flags.out)

    return run_tool("plot_run.py", job)


if __name__ == "__main__":
    sys.exit(main())
