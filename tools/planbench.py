"""Compare the memory that `seer-edge plan` estimates with the peak of short runs, whose first updates are from frames.

    python tools/planbench.py               # all cases, some five minutes
    python tools/planbench.py gray rgb-96   # some of them

A case fills its replay, makes updates from frames, freezes, and evaluates. A long run needs more: up to 50 MB on Atari.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import mark, run_child, serve
from commandline import Parser, mb, progress, render, run_tool

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
ALIEN, CARTPOLE, CAMERA = "Alien", "cartpole-swingup", "camera_env:Camera-v0"
UPDATES, LATENT_STEPS = 20, 10


@dataclass(frozen=True)
class Case:
    """A run: its environment, its budget, the steps before it learns, and further options of `seer_edge.train`."""

    env: str
    mem_budget: str
    learning_starts: int
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def all_options(self) -> dict[str, Any]:
        """Return the options of `seer_edge.train`."""
        freeze_at = self.learning_starts + UPDATES
        first = {"random_steps": 50} if self.env == CARTPOLE else {}
        return {
            "mem_budget": self.mem_budget,
            "total_timesteps": freeze_at + LATENT_STEPS,
            "freeze_at": freeze_at,
            "set": {"learning_starts": self.learning_starts, **first, **self.hyperparameters},
            "eval_every": self.learning_starts,
            "eval_episodes": 1,
            "eval_max_steps": 100,
            **self.options,
        }


SMALL, COLOR = {"resolution": 50}, {"resolution": 84, "color": "rgb"}
CASES = {
    "gray": Case(ALIEN, "2.2MB", 290),
    "gray-96": Case(ALIEN, "2.2MB", 290, {"batch_size": 96}),
    "gray-256": Case(ALIEN, "3MB", 400, {"batch_size": 256}),
    "dqn": Case(ALIEN, "2.2MB", 290, {}, {"algo": "dqn"}),
    "canonical": Case(ALIEN, "2.2MB", 290, {}, {"encoder": "canonical"}),
    "impala": Case(ALIEN, "2.2MB", 290, {}, {"encoder": "impala"}),
    "rgb": Case(CAMERA, "6.5MB", 290, {}, COLOR),
    "rgb-96": Case(CAMERA, "6.5MB", 290, {"batch_size": 96}, COLOR),
    "control-50": Case(CARTPOLE, "6MB", 540, {}, SMALL),
    "control-50-64": Case(CARTPOLE, "3MB", 290, {"batch_size": 64}, SMALL),
    "control-84": Case(CARTPOLE, "16MB", 540),
    "control-84-64": Case(CARTPOLE, "6MB", 190, {"batch_size": 64}),
    "sac-84-64": Case(CARTPOLE, "6MB", 190, {"batch_size": 64}, {"algo": "sac"}),
}


def train_case(name: str) -> None:
    """In a child, train the case."""
    import seer_edge

    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        seer_edge.train(case.env, run_dir=Path(folder) / "run", **case.all_options())
    mark("trained")


def compare(names: list[str]) -> int:
    """Print planned and measured peaks, and their ratio."""
    import seer_edge

    sys.path.insert(0, str(EXAMPLES))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(EXAMPLES), os.environ.get("PYTHONPATH"))))
    rows = []
    for name in names:
        case = CASES[name]
        planned = seer_edge.plan(case.env, **case.all_options()).rss_peak_bytes
        progress(f"training {name}")
        (trained,) = run_child(__file__, "train", name=name)
        peak = trained.peak_bytes
        rows.append((name, mb(planned), mb(peak), f"{peak / planned:.2f}"))
    print(render(("case", "planned MB", "peak MB", "peak/planned"), rows))
    return 0


def _case(text: str) -> str:
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"{text}: unknown; choose from {', '.join(CASES)}")
    return text


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="planbench.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", type=_case, metavar="CASE", help=f"some of {', '.join(CASES)}")
    return run_tool("planbench.py", lambda: compare(parser.parse_args().names or [*CASES]))


if __name__ == "__main__":
    if not serve({"train": train_case}):
        sys.exit(main())
