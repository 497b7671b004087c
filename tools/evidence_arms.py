"""The collected runs of docs/results/plan.md, by game, arm and seed. `evidence.py` writes their page."""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from commandline import BadInputError
from numpy.typing import NDArray

FIRST = "a"
"""The continuation with the random numbers of its parent. A run without continuations is one too."""
CONTINUATIONS = frozenset("abcd")
ARMS = {
    "whole": "no freeze, all frames of the run",
    "bounded": "no freeze, newest frames",
    "paper": "SEER, float32 latents",
    "uint8": "SEER, compressed uint8 latents",
    "uint4": "SEER, compressed uint4 latents",
    "auto": "SEER, float32 latents, --freeze-at auto",
    "twice": "no freeze, newest frames, two contrastive steps",
    "twice-paper": "SEER, float32 latents, two contrastive steps",
    "fresh": "SEER, float32 latents, old rows overwritten before growth",
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
STEPS_CURVE = "curves"
AXES = {STEPS_CURVE: "agent steps", "cpu_curves": "CPU seconds", "flops_curves": "FLOPs"}
"""The abscissa of each figure of curves, by its name."""
GAMES_MIN = 4
"""Training games of the last quarter that a run needs for a mean."""


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Abscissae and mean returns."""


@dataclass(frozen=True)
class Result:
    """What a run reached, and what it cost.

    Attributes:
        timesteps: its length in agent steps.
        evaluation: mean return of the evaluation at the end.
        games: training games that ended in the last quarter.
        training: their mean return; None if they are fewer than GAMES_MIN.
        cpu_seconds: of the process, those of a parent up to the fork included.
        rows: rows held at the end.
        rss_peak_bytes: the kernel's, of the process; the largest of all processes of a run that was resumed or forked.
        freeze_step: None without a freeze.
        freeze_is_latest: whether an automatic freeze came at its latest step.
        default_freeze: the step at which this run freezes without `--freeze-at`; None for a rival.
        flops: the agent's, those of a parent up to the fork included; None for a rival, or if they were not recorded.
        curves: by name of AXES the abscissa of each training game, from the fork on, and the mean return of the newest
            games. A rival has the curve over agent steps only.

    """

    timesteps: int
    evaluation: float | None
    games: int
    training: float | None
    cpu_seconds: float
    rows: int
    rss_peak_bytes: int
    freeze_step: int | None
    freeze_is_latest: bool
    default_freeze: int | None
    flops: float | None
    curves: Mapping[str, Curve]


def result_of_run(path: Path) -> Result:
    """Read a run of this project. Raises BadInputError."""
    from seer_edge.reports.figures import training_return
    from seer_edge.reports.reading import CPU_SECONDS, FLOPS, STEPS, read_run
    from seer_edge.reports.scores import last_quarter

    run = read_run(path)
    config = json.loads((path / "config.json").read_text())
    means, late = run.evaluations.means, last_quarter(run)
    ends, returns = training_return(run, STEPS)
    own = ends >= (config.get("origin") or {}).get("step", 0)
    ends, returns = ends[own], returns[own]
    curves = {STEPS_CURVE: (ends, returns)}
    for name, column in (("cpu_curves", CPU_SECONDS), ("flops_curves", FLOPS)):
        places = run.at_steps(column, ends)
        known = np.isfinite(places)
        curves[name] = places[known], returns[known]
    return Result(
        timesteps=int(np.nanmax(run.column(STEPS))),
        evaluation=float(means[-1]) if len(means) else None,
        games=len(late),
        training=_mean_of_games(late),
        cpu_seconds=float(np.nanmax(run.column(CPU_SECONDS))),
        rows=int(np.nanmax(run.column("replay/rows"))),
        rss_peak_bytes=int(json.loads((path / "summary.json").read_text())["rss_peak_bytes"]),
        freeze_step=run.freeze_step,
        freeze_is_latest=config.get("freeze_reason") == "--freeze-at auto" and run.freeze_step == config["freeze_at"],
        default_freeze=_default_freeze(config),
        flops=float(np.nanmax(run.column(FLOPS))) if run.has(FLOPS) else None,
        curves=curves,
    )


def result_of_rival(path: Path) -> Result:
    """Read what a rival's `--json` wrote."""
    from seer_edge.reports.figures import recent_means

    report = json.loads(path.read_text())
    ends, returns = (np.array([game[name] for game in report["games"]], float) for name in ("step", "return"))
    return Result(
        timesteps=report["steps"],
        evaluation=statistics.fmean(report["evaluation"]),
        games=len(report["last_quarter"]),
        training=_mean_of_games(report["last_quarter"]),
        cpu_seconds=report["cpu_seconds"],
        rows=report["rows"],
        rss_peak_bytes=report["rss_peak_bytes"],
        freeze_step=None,
        freeze_is_latest=False,
        default_freeze=None,
        flops=None,
        curves={STEPS_CURVE: (ends, recent_means(ends, returns))},
    )


def _mean_of_games(returns: Sequence[float] | NDArray[np.float64]) -> float | None:
    return float(np.mean(returns)) if len(returns) >= GAMES_MIN else None


def _default_freeze(config: Mapping[str, Any]) -> int:
    """Return the step at which a run with this `config.json` freezes if its replay does not hold the whole run."""
    from seer_edge.config.freeze_step import freeze_fields
    from seer_edge.config.registry import preset_for

    steps = config["total_timesteps"]
    preset = preset_for(config["env_name"], config["algo"])
    return int(freeze_fields(None, preset, None, total_timesteps=steps, frame_capacity=0)["freeze_at"])


@dataclass(frozen=True)
class Arm:
    """The results of one arm on one game, by seed and continuation."""

    name: str
    by_seed: Mapping[int, Mapping[str, Result]]

    def values(self, measure: str) -> dict[int, dict[str, float]]:
        """Return the known values of a measure, by seed and continuation."""
        found = {
            seed: {name: getattr(result, measure) for name, result in results.items()}
            for seed, results in self.by_seed.items()
        }
        return {
            seed: {name: value for name, value in values.items() if value is not None} for seed, values in found.items()
        }

    def seeds(self, measure: str) -> dict[int, float]:
        """Return each seed's score, the mean over its continuations."""
        return {seed: statistics.fmean(values.values()) for seed, values in self.values(measure).items() if values}

    @property
    def results(self) -> list[Result]:
        """All results, seed by seed."""
        return [result for results in self.by_seed.values() for result in results.values()]


def alike(first: Arm, second: Arm, measure: str) -> tuple[dict[int, float], dict[int, float]]:
    """Return the scores by seed of both arms, over the seeds and the continuations that both have."""
    one, other = first.values(measure), second.values(measure)
    shared = {seed: sorted(one[seed].keys() & other[seed].keys()) for seed in one.keys() & other.keys()}
    both = [
        {
            seed: statistics.fmean(values[seed][name] for name in names)
            for seed, names in sorted(shared.items())
            if names
        }
        for values in (one, other)
    ]
    return both[0], both[1]


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
    """Return what is published of the game at the length of its runs; None if there is nothing."""
    steps = next(result.timesteps for arm in arms.values() for result in arm.results)
    return next((found for found in PUBLISHED if steps == found.timesteps and game in found.returns), None)


def random_play(game: str) -> float | None:
    """Return the mean return of random play; None for a task whose is not known."""
    from seer_edge.reports.reference_scores import ATARI

    return ATARI[game][0] if game in ATARI else None


def label(arm: str) -> str:
    """Return what an arm is, in words."""
    earlier = EARLIER.fullmatch(arm)
    return f"{ARMS['paper']}, frozen at {earlier[1]},000" if earlier else ARMS[arm]


def order(arm: str) -> tuple[int, int]:
    """Return the place of an arm in tables: as in ARMS, earlier freezes after `paper`, the latest one first."""
    earlier = EARLIER.fullmatch(arm)
    return [*ARMS].index("paper" if earlier else arm), -int(earlier[1]) if earlier else -sys.maxsize


def is_fixed(arm: str) -> bool:
    """Return whether an arm is like `paper`, and differs from it at most in the step of its freeze."""
    return arm == "paper" or EARLIER.fullmatch(arm) is not None


def read_arms(folder: Path) -> Games:
    """Return the arms by game and name, in the order of `order`. Raises BadInputError."""
    found: dict[str, dict[str, dict[int, dict[str, Result]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    lengths: dict[str, int] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        game, arm, continuation, seed = parts_of(path)
        result = result_of_rival(path) if path.is_file() else result_of_run(path)
        if result.timesteps != lengths.setdefault(game, result.timesteps):
            raise BadInputError(
                f"{path}: has {result.timesteps:,} steps, where other runs of {game} have {lengths[game]:,}; "
                "collect it for another --page"
            )
        if continuation in found[game][arm][seed]:
            raise BadInputError(f"{path}: there is another run of this continuation; leave one out")
        found[game][arm][seed][continuation] = result
    if not found:
        raise BadInputError(f"{folder}: holds no runs; use `evidence.py collect` first")
    return {
        game: {name: Arm(name, dict(arms[name])) for name in sorted(arms, key=order)} for game, arms in found.items()
    }


def parts_of(path: Path) -> tuple[str, str, str, int]:
    """Return game, arm, continuation and seed of the folder of a run, or of a rival's file. Raises BadInputError."""
    game, _, rest = path.name.removesuffix(RIVAL_SUFFIX).partition("__")
    variant, _, seed = rest.partition("__")
    arm, _, last = variant.rpartition("-")
    name, continuation = (arm, last) if last in CONTINUATIONS else (variant, FIRST)
    if not (name in ARMS or EARLIER.fullmatch(name)) or not seed.isdecimal():
        raise BadInputError(
            f"{path}: is not named GAME__VARIANT__SEED with a variant of docs/results/plan.md; leave it out"
        )
    return game, name, continuation, int(seed)
