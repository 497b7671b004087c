"""The collected runs of docs/results/plan.md, by game, arm and seed. `evidence.py` writes their page."""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commandline import BadInputError
from numpy.typing import NDArray

CONTINUATIONS = frozenset("abcd")
ARMS = {
    "whole": "no freeze, all frames of the run",
    "bounded": "no freeze, newest frames",
    "paper": "SEER as in the paper",
    "uint8": "SEER, compressed uint8",
    "uint4": "SEER, compressed uint4",
    "auto": "SEER as in the paper, --freeze-at auto",
    "prioritized": "no freeze, all frames of the run, prioritized replay",
    "n10": "no freeze, all frames of the run, prioritized replay, 10-step returns",
    "dopamine": "no freeze, all frames of the run, settings of Dopamine",
    "stream": "streaming Q(lambda), no replay",
    "sb3": "DQN of Stable-Baselines3",
}
MAIN_ARMS = ("whole", "bounded", "paper", "uint8", "uint4")
EARLIER = re.compile(r"paper-(\d+)k")
"""Arms like `paper` that freeze at another step, in thousands."""
RIVAL_SUFFIX = ".json"
MEASURES = {"evaluation": "Evaluation", "training": "Training, last quarter"}


@dataclass(frozen=True)
class Result:
    """What a run reached, and what it cost.

    Attributes:
        timesteps: its length in agent steps.
        evaluation: mean return of the evaluation at the end.
        training: mean return of the training games that ended in the last quarter; None if none did.
        cpu_seconds: of the process, those of a parent up to the fork included.
        rows: rows held at the end.
        rss_peak_bytes: the kernel's, of the process; the largest of all processes of a run that was resumed or forked.
        freeze_step: None without a freeze.
        curve: step of each training game, and the mean return of the newest games.

    """

    timesteps: int
    evaluation: float | None
    training: float | None
    cpu_seconds: float
    rows: int
    rss_peak_bytes: int
    freeze_step: int | None
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]


def result_of_run(path: Path) -> Result:
    """Read a run of this project. Raises BadInputError."""
    from seer_edge.reports.figures import training_return
    from seer_edge.reports.reading import CPU_SECONDS, STEPS, read_run
    from seer_edge.reports.scores import last_quarter_return

    run = read_run(path)
    means = run.evaluations.means
    return Result(
        timesteps=int(np.nanmax(run.column(STEPS))),
        evaluation=float(means[-1]) if len(means) else None,
        training=last_quarter_return(run),
        cpu_seconds=float(np.nanmax(run.column(CPU_SECONDS))),
        rows=int(np.nanmax(run.column("replay/rows"))),
        rss_peak_bytes=int(json.loads((path / "summary.json").read_text())["rss_peak_bytes"]),
        freeze_step=run.freeze_step,
        curve=training_return(run, STEPS),
    )


def result_of_rival(path: Path) -> Result:
    """Read what a rival's `--json` wrote."""
    from seer_edge.reports.figures import recent_means

    report = json.loads(path.read_text())
    ends, returns = (np.array([game[name] for game in report["games"]], float) for name in ("step", "return"))
    return Result(
        timesteps=report["steps"],
        evaluation=statistics.fmean(report["evaluation"]),
        training=statistics.fmean(report["last_quarter"]) if report["last_quarter"] else None,
        cpu_seconds=report["cpu_seconds"],
        rows=report["rows"],
        rss_peak_bytes=report["rss_peak_bytes"],
        freeze_step=None,
        curve=(ends, recent_means(ends, returns)),
    )


@dataclass(frozen=True)
class Arm:
    """The results of one arm on one game, by seed."""

    name: str
    by_seed: Mapping[int, Sequence[Result]]

    def values(self, measure: str) -> dict[int, list[float]]:
        """Return the values of a measure by seed, one for each continuation."""
        found = {seed: [getattr(result, measure) for result in results] for seed, results in self.by_seed.items()}
        return {seed: [value for value in values if value is not None] for seed, values in found.items()}

    def seeds(self, measure: str) -> dict[int, float]:
        """Return each seed's score, the mean over its continuations."""
        return {seed: statistics.fmean(values) for seed, values in self.values(measure).items() if values}

    @property
    def results(self) -> list[Result]:
        """All results, seed by seed."""
        return [result for results in self.by_seed.values() for result in results]


Arms = Mapping[str, Arm]
Games = Mapping[str, Arms]
"""Arms by game or task."""


@dataclass(frozen=True)
class Published:
    """Mean returns that others report.

    Attributes:
        agent: what has these returns.
        timesteps: after how many agent steps.
        publishers: who reports them.
        returns: by game, one for each publisher.

    """

    agent: str
    timesteps: int
    publishers: Sequence[str]
    returns: Mapping[str, Sequence[int]]


PUBLISHED = (
    Published(
        "data-efficient Rainbow",
        100_000,
        ("Dopamine (Agarwal et al. 2021)", "its first authors (van Hasselt et al. 2019)"),
        {"CrazyClimber": (34_509, 16_185), "Krull": (3_257, 2_852), "Seaquest": (305, 354)},
    ),
    Published(
        "0.07 GB",
        500_000,
        ("the paper's Rainbow (Table 1, five seeds)", "the paper's SEER"),
        {"CrazyClimber": (10_498, 17_620), "Krull": (2_216, 3_069), "Seaquest": (263, 337)},
    ),
)


def published(game: str, arms: Arms) -> Published | None:
    """Return what is published of the game at the length of all its runs; None if there is nothing."""
    lengths = {result.timesteps for arm in arms.values() for result in arm.results}
    return next((found for found in PUBLISHED if lengths == {found.timesteps} and game in found.returns), None)


def label(arm: str) -> str:
    """Return what an arm is, in words."""
    earlier = EARLIER.fullmatch(arm)
    return f"{ARMS['paper']}, frozen at {earlier[1]},000" if earlier else ARMS[arm]


def order(arm: str) -> tuple[int, int]:
    """Return the place of an arm in tables: as in ARMS, earlier freezes after `paper`, the latest one first."""
    earlier = EARLIER.fullmatch(arm)
    return [*ARMS].index("paper" if earlier else arm), -int(earlier[1]) if earlier else -sys.maxsize


def fixed_steps(arms: Arms) -> list[str]:
    """Return the arms like `paper`, which differ in the step of their freeze only."""
    return [arm for arm in arms if arm == "paper" or EARLIER.fullmatch(arm)]


def read_arms(folder: Path) -> Games:
    """Return the arms by game and name, in the order of `order`. Raises BadInputError."""
    found: dict[str, dict[str, dict[int, list[Result]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        game, arm, seed = parts_of(path)
        found[game][arm][seed].append(result_of_rival(path) if path.is_file() else result_of_run(path))
    if not found:
        raise BadInputError(f"{folder}: holds no runs; use `evidence.py collect` first")
    return {
        game: {name: Arm(name, dict(arms[name])) for name in sorted(arms, key=order)} for game, arms in found.items()
    }


def parts_of(path: Path) -> tuple[str, str, int]:
    """Return game, arm and seed of the folder of a run, or of a rival's file. Raises BadInputError."""
    game, _, rest = path.name.removesuffix(RIVAL_SUFFIX).partition("__")
    variant, _, seed = rest.partition("__")
    arm, _, last = variant.rpartition("-")
    name = arm if last in CONTINUATIONS else variant
    if not (name in ARMS or EARLIER.fullmatch(name)) or not seed.isdecimal():
        raise BadInputError(
            f"{path}: is not named GAME__VARIANT__SEED with a variant of docs/results/plan.md; leave it out"
        )
    return game, name, int(seed)
