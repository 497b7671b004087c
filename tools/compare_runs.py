"""Plot the evaluations of several runs over steps, wall time and FLOPs, as in the paper's Figures 2 and 3.

python tools/compare_runs.py RUN RUN ... -o FILE
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from commandline import BadInputError, Parser, image_file, run_tool

mpl.use("Agg")
import matplotlib.pyplot as plt

AXES = (
    ("time/total_timesteps", 1.0, "agent steps"),
    ("time/time_elapsed", 60.0, "minutes"),
    ("compute/flops", 1e12, "estimated cumulative FLOPs, 10^12"),
)


@dataclass(frozen=True)
class Curve:
    """One run's evaluations."""

    label: str
    rows: list[dict[str, str]]

    @classmethod
    def read(cls, run: Path) -> "Curve":
        """Read the run in the folder `run`. Raises OSError or ValueError for another folder or a run not evaluated."""
        config = json.loads((run / "config.json").read_text())
        with (run / "progress.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["eval/mean_reward"]]
        if not rows:
            raise ValueError("it has no evaluation yet")
        freeze = "never frozen" if config["freeze_at"] is None else f"frozen at {config['freeze_at']:,}"
        return cls(f"{config['env_name']}, {config['algo']}, {freeze}, seed {config['seed']}", rows)

    def column(self, name: str) -> list[float]:
        """Return the values of one column."""
        return [float(row[name]) for row in self.rows]


def plot(curves: list[Curve], path: Path) -> None:
    """Plot one panel for each axis and one line for each run, with error bars over the episodes of an evaluation."""
    figure, panels = plt.subplots(1, len(AXES), figsize=(14, 4.5), sharey=True, layout="constrained")
    for panel, (name, unit, label) in zip(panels, AXES, strict=True):
        for curve in curves:
            where = [value / unit for value in curve.column(name)]
            means, spreads = curve.column("eval/mean_reward"), curve.column("eval/std_reward")
            panel.errorbar(where, means, yerr=spreads, marker="o", markersize=3, capsize=2, label=curve.label)
        panel.set_xlabel(label)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("evaluation return, mean ± std of its episodes")
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(runs: list[Path], out: Path) -> int:
    """Write the image and print its path. Raises BadInputError."""
    curves = []
    for run in runs:
        try:
            curves.append(Curve.read(run))
        except (OSError, ValueError, KeyError) as error:
            raise BadInputError(f"{run}: not a run to compare ({error}); give one that was evaluated") from error
    try:
        plot(curves, out)
    except OSError as error:
        raise BadInputError(f"--out {out}: cannot be written ({error.strerror}); name a file elsewhere") from error
    print(f"wrote {out}")
    return 0


def main() -> int:
    """Run the command line; return the exit status."""

    def job() -> int:
        parser = Parser(
            prog="compare_runs.py", description="Plot the evaluations of several runs over steps, time and FLOPs."
        )
        parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="a run's folder")
        parser.add_argument("-o", "--out", type=image_file, required=True, metavar="FILE", help="image to write")
        flags = parser.parse_args()
        return draw(flags.run, flags.out)

    return run_tool("compare_runs.py", job)


if __name__ == "__main__":
    sys.exit(main())
