"""Scores of runs at one point, by game and setting, and the statistics of the tables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seer_edge.reports.reading import FLOPS, Column, Run
from seer_edge.reports.reference_scores import PaperScore, human_normalized, paper_scores
from seer_edge.reports.statistics import (
    Improvement,
    Interval,
    improvement,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
)

LAST_SHARE = 0.25


@dataclass(frozen=True)
class Point:
    """Where scores are compared: at a step, at a number of FLOPs, or at the end of each run (both None)."""

    step: int | None = None
    flops: float | None = None

    @property
    def text(self) -> str:
        """The point in words."""
        if self.step is not None:
            return f"at step {self.step:,}"
        return "at the end" if self.flops is None else f"at {self.flops / 1e12:g}T FLOPs"

    def limit(self, run: Run) -> float | None:
        """Return the last step of `run` that counts; None if the run has not reached the point."""
        if self.step is not None:
            return self.step if run.last_step >= self.step else None
        if self.flops is None:
            return run.last_step
        used = run.column(FLOPS)
        if not len(used) or not np.nanmax(used, initial=0) >= self.flops:
            return None
        return float(np.interp(self.flops, [0, *used], [0, *run.steps]))


@dataclass(frozen=True)
class Score:
    """The newest evaluation of a run at a point.

    Attributes:
        run: the run.
        step: the step of the evaluation; None if the run has no score.
        mean: its mean return.
        why_none: why the run has no score.

    """

    run: Run
    step: int | None = None
    mean: float | None = None
    why_none: str = ""


def score_of(run: Run, point: Point) -> Score:
    """Return the newest evaluation of `run` up to the point."""
    limit = point.limit(run)
    if limit is None:
        return Score(run, why_none=f"is at step {run.last_step:,}, before the point")
    found = run.evaluations
    earlier = np.flatnonzero(found.steps <= limit)
    if not len(earlier):
        return Score(run, why_none="no evaluation up to the point")
    return Score(run, int(found.steps[earlier[-1]]), float(found.means[earlier[-1]]))


def last_quarter(run: Run) -> Column:
    """Return the returns of the training episodes that ended in the last quarter of the steps made so far."""
    if run.episodes is None:
        return np.empty(0)
    return run.episodes.returns[run.episodes.steps > (1 - LAST_SHARE) * run.last_step]


def last_quarter_return(run: Run) -> float | None:
    """Return the mean of `last_quarter`, None if it is empty.

    Runs without `episodes.csv` give the last mean of their `progress.csv`. None with neither.
    """
    if run.episodes is not None and len(run.episodes.steps):
        late = last_quarter(run)
        return float(np.mean(late)) if len(late) else None
    logged = run.column("rollout/ep_rew_mean")
    logged = logged[np.isfinite(logged)]
    return float(logged[-1]) if len(logged) else None


@dataclass(frozen=True)
class Row:
    """The runs of one setting on one game, and their statistics.

    Attributes:
        game: the environment.
        setting: name of the setting.
        scores: one for each run; some may lack a value.
        values: the values there are.
        mean, std, iqm: over runs; `std` is the sample's, None with one run; all None without a value.
        mean_interval, iqm_interval: 95 % bootstrap intervals; None with one run.
        normalized: human-normalized mean; None without reference scores.
        last_quarter: mean over runs of the training return of the last quarter.
        paper: the paper's score; None if it has none.

    """

    game: str
    setting: str
    scores: tuple[Score, ...]
    values: tuple[float, ...]
    mean: float | None
    std: float | None
    iqm: float | None
    mean_interval: Interval | None
    iqm_interval: Interval | None
    normalized: float | None
    last_quarter: float | None
    paper: PaperScore | None


def rows_of(runs: Mapping[str, Mapping[str, Sequence[Run]]], point: Point) -> list[Row]:
    """Return a row for each game and setting of `runs`."""
    return [_row(game, name, found, point) for game, settings in runs.items() for name, found in settings.items()]


def _row(game: str, setting: str, runs: Sequence[Run], point: Point) -> Row:
    scores = tuple(score_of(run, point) for run in runs)
    values = tuple(score.mean for score in scores if score.mean is not None)
    late = [value for value in map(last_quarter_return, runs) if value is not None]
    frozen = runs[0].settings.get("freeze_at") is not None
    paper = paper_scores(game, runs[0].algo, frozen=frozen)
    mean = float(np.mean(values)) if values else None
    return Row(
        game=game,
        setting=setting,
        scores=scores,
        values=values,
        mean=mean,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        iqm=float(interquartile_mean(values)) if values else None,
        mean_interval=mean_interval([values]) if values else None,
        iqm_interval=interquartile_interval([values]) if values else None,
        normalized=None if mean is None else human_normalized(game, mean),
        last_quarter=float(np.mean(late)) if late else None,
        paper=None if paper is None else paper.at_flops if point.flops is not None else paper.at_steps,
    )


@dataclass(frozen=True)
class Aggregate:
    """Human-normalized scores of one setting over all games that each have a value."""

    setting: str
    games: int
    runs: int
    mean: float
    mean_interval: Interval | None
    iqm: float
    iqm_interval: Interval | None


def aggregates(rows: Sequence[Row]) -> list[Aggregate]:
    """Return the human-normalized aggregate of each setting that has several games with reference scores."""
    strata: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        found = [human_normalized(row.game, value) for value in row.values]
        known = [value for value in found if value is not None]
        if known:
            strata[row.setting].append(known)
    return [_aggregate(setting, games) for setting, games in strata.items() if len(games) > 1]


def _aggregate(setting: str, games: Sequence[Sequence[float]]) -> Aggregate:
    joined = np.concatenate(games)
    return Aggregate(
        setting,
        len(games),
        len(joined),
        float(np.mean(joined)),
        mean_interval(games),
        float(interquartile_mean(joined)),
        interquartile_interval(games),
    )


@dataclass(frozen=True)
class Comparison:
    """The probability that `first` scores higher than `second`, on `games`."""

    first: str
    second: str
    games: tuple[str, ...]
    found: Improvement


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """Return the probability of improvement for each two settings that share a game, by game and over all of them."""
    games = list(dict.fromkeys(row.game for row in rows))
    settings = list(dict.fromkeys(row.setting for row in rows))
    by_place = {(row.game, row.setting): row for row in rows}
    result = []
    for index, first in enumerate(settings):
        for second in settings[index + 1 :]:
            shared = [game for game in games if _scored(by_place, game, first) and _scored(by_place, game, second)]
            for chosen in [*([game] for game in shared), *([shared] if len(shared) > 1 else [])]:
                found = improvement(
                    [_by_seed(by_place[game, first]) for game in chosen],
                    [_by_seed(by_place[game, second]) for game in chosen],
                )
                if found is not None:
                    result.append(Comparison(first, second, tuple(chosen), found))
    return result


def _scored(rows: Mapping[tuple[str, str], Row], game: str, setting: str) -> bool:
    return (game, setting) in rows and bool(rows[game, setting].values)


def _by_seed(row: Row) -> dict[int, float]:
    """Return the scores by seed. Runs that repeat a seed are numbered from the end of the range of seeds."""
    found: dict[int, float] = {}
    for number, score in enumerate(score for score in row.scores if score.mean is not None):
        assert score.mean is not None
        found[score.run.seed if score.run.seed not in found else -1 - number] = score.mean
    return found
