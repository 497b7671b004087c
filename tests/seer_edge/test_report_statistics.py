"""The statistics of reports against closed forms, complete enumeration and scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from seer_edge.reports.reference_scores import ATARI, human_normalized, paper_scores
from seer_edge.reports.statistics import (
    Interval,
    improvement,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
)


def test_the_interquartile_mean_of_eight_values_is_the_mean_of_the_middle_four() -> None:
    values = [100.0, 1.0, 4.0, 2.0, 3.0, -50.0, 5.0, 0.0]
    assert interquartile_mean(values) == np.mean(sorted(values)[2:6]) == 2.5


def test_the_interquartile_mean_of_three_values_is_their_mean() -> None:
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0


def test_the_interval_of_two_values_reaches_from_one_to_the_other() -> None:
    # A quarter of the resamples holds the smaller value twice, and a quarter the larger.
    assert mean_interval([[3.0, 7.0]]) == Interval(3.0, 7.0)


def test_the_interval_of_the_mean_matches_all_resamples() -> None:
    values = [0.0, 1.0, 4.0, 9.0, 16.0]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    low, high = np.percentile(means, [2.5, 97.5])
    found = mean_interval([values])
    assert found is not None
    assert found.low == pytest.approx(low, abs=0.4)
    assert found.high == pytest.approx(high, abs=0.4)


def test_the_interval_matches_the_normal_one_of_many_values() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, 400)
    found = mean_interval([list(values)])
    assert found is not None
    expected = stats.norm.interval(0.95, loc=values.mean(), scale=values.std() / np.sqrt(400))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03)


def test_resamples_are_drawn_within_each_game() -> None:
    # Each stratum is constant, so that a stratified resample always has the same mean. A pooled one does not.
    assert mean_interval([[0.0, 0.0], [10.0, 10.0]]) == Interval(5.0, 5.0)
    assert mean_interval([[0.0, 0.0, 10.0, 10.0]]) != Interval(5.0, 5.0)
    assert interquartile_interval([[0.0] * 4, [10.0] * 4]) == Interval(5.0, 5.0)


def test_one_run_has_no_interval() -> None:
    assert mean_interval([[1.0]]) is None
    assert mean_interval([[1.0, 2.0], [3.0]]) is None


def test_paired_runs_are_compared_by_seed() -> None:
    # Each with each would give 0.5. By seed the first always wins.
    found = improvement([{0: 2.0, 1: 12.0, 2: 22.0}], [{0: 1.0, 1: 11.0, 2: 21.0}])
    assert found is not None
    assert (found.probability, found.interval, found.paired) == (1.0, Interval(1.0, 1.0), True)


def test_other_runs_give_the_mann_whitney_statistic() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 9, 7), generator.integers(2, 9, 5)
    found = improvement([dict(enumerate(map(float, a)))], [dict(enumerate(map(float, b)))])
    assert found is not None
    assert not found.paired
    assert found.probability == pytest.approx(stats.mannwhitneyu(a, b).statistic / (7 * 5))
    assert found.interval is not None
    assert 0 <= found.interval.low <= found.probability <= found.interval.high <= 1


def test_games_count_equally_in_the_probability_of_improvement() -> None:
    found = improvement([{0: 2.0}, {0: 1.0, 1: 1.0}], [{0: 1.0}, {0: 2.0, 1: 1.0}])
    assert found is not None
    assert found.probability == pytest.approx((1 + 0.25) / 2)
    assert found.interval is None  # a game has one run


def test_settings_without_a_common_game_are_not_compared() -> None:
    assert improvement([{0: 1.0}, {}], [{}, {0: 1.0}]) is None


def test_human_normalized_scores_are_0_for_random_play_and_1_for_a_human() -> None:
    assert len(ATARI) == 57
    for game, (random, human) in ATARI.items():
        assert human_normalized(game, random) == 0.0
        assert human_normalized(game, human) == 1.0
    assert human_normalized("cartpole-swingup", 500.0) is None


def test_the_papers_scores_depend_on_the_freeze_and_the_agent() -> None:
    frozen, never = paper_scores("Qbert", "rainbow", frozen=True), paper_scores("Qbert", "rainbow", frozen=False)
    assert frozen is not None
    assert never is not None
    assert (frozen.at_flops.mean, frozen.at_steps.mean) == (4123.5, 3231.0)
    assert (never.at_flops.mean, never.at_steps.std) == (2325.5, 658.8)
    assert paper_scores("Qbert", "dqn", frozen=True) is None
    assert paper_scores("Pong", "rainbow", frozen=True) is None
