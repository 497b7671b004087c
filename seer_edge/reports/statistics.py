"""Statistics over the seeds of runs, as Agarwal et al. (2021) recommend them for few runs. scipy computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2_000
TRIMMED_SHARE = 0.25
"""Share of the values that the interquartile mean leaves out at each end, rounded down to whole values."""

Strata = Sequence[Sequence[float]]
"""One sequence of values for each game. Bootstrap samples are drawn within each."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Improvement:
    """How often one setting scores higher than another.

    Attributes:
        probability: share of the comparisons that the first setting wins; a tie counts half.
        interval: bootstrap interval of the probability; None with fewer than two runs of a setting in a game.
        paired: whether runs of the same seed were compared. Otherwise each run is compared with each.

    """

    probability: float
    interval: Interval | None
    paired: bool


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """Return the mean of the values without the lowest and the highest quarter. Fewer than four give the plain mean."""
    from scipy import stats

    return stats.trim_mean(values, TRIMMED_SHARE, axis=axis)


def mean_interval(strata: Strata) -> Interval | None:
    """Return the stratified bootstrap interval of the mean over all values; None if a game has only one value."""
    return _bootstrap(strata, lambda joined: np.mean(joined, axis=-1))


def interquartile_interval(strata: Strata) -> Interval | None:
    """Return the stratified bootstrap interval of the interquartile mean; None if a game has only one value."""
    return _bootstrap(strata, interquartile_mean)


def _bootstrap(strata: Strata, statistic: Any) -> Interval | None:
    def of_samples(*samples: NDArray[Any], axis: int = -1) -> Any:
        return statistic(np.concatenate(samples, axis=-1))

    return _interval(strata, of_samples)


def _interval(samples: Strata, statistic: Any) -> Interval | None:
    """Return the percentile interval. `scipy.stats.bootstrap` draws from each sample for itself."""
    if not samples or any(len(values) < 2 for values in samples):
        return None
    from scipy import stats

    found = stats.bootstrap(
        [np.asarray(values, dtype=float) for values in samples],
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def improvement(first: Sequence[dict[int, float]], second: Sequence[dict[int, float]]) -> Improvement | None:
    """Return the probability that the first setting scores higher, averaged over games; None without a common game.

    Args:
        first: for each game, the score of each run by its seed.
        second: the same of the other setting. Games without a run of both settings are left out.

    """
    games = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if not games:
        return None
    paired = all(a.keys() == b.keys() for a, b in games)
    if paired:
        wins = [[_win(a[seed] - b[seed]) for seed in a] for a, b in games]
        return Improvement(float(np.mean([np.mean(won) for won in wins])), _interval(wins, _mean_of_means), True)
    samples = [list(scores.values()) for game in games for scores in game]
    arrays = [np.asarray(values, dtype=float) for values in samples]
    return Improvement(float(_mean_of_wins(*arrays)), _interval(samples, _mean_of_wins), False)


def _win(difference: float) -> float:
    return 0.5 * (1.0 + float(np.sign(difference)))


def _mean_of_means(*samples: NDArray[Any], axis: int = -1) -> Any:
    return np.mean([np.mean(values, axis=-1) for values in samples], axis=0)


def _mean_of_wins(*samples: NDArray[Any], axis: int = -1) -> Any:
    """Compare each run with each, in pairs of samples of the same game: the Mann-Whitney statistic over n times m."""
    shares = [
        np.mean(0.5 * (1.0 + np.sign(a[..., :, None] - b[..., None, :])), axis=(-2, -1))
        for a, b in zip(samples[::2], samples[1::2], strict=True)
    ]
    return np.mean(shares, axis=0)
