"""Durations against sorted lists."""

from hypothesis import given
from hypothesis import strategies as st

from seer_edge.envs.durations import BIN_SECONDS, Durations

SECONDS = st.floats(0, 0.99)


def _of(values: list[float]) -> Durations:
    durations = Durations()
    for value in values:
        durations.add(value)
    return durations


@given(st.lists(SECONDS, min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_within_a_bin_of_that_of_the_sorted_list(values: list[float], share: float) -> None:
    durations = _of(values)
    ordered = sorted(values)
    below = ordered[max(0, -(-round(share * len(values) * 1e9) // 10**9) - 1)]
    got = durations.quantile(share)
    assert below - 1e-9 <= got + BIN_SECONDS
    assert got <= durations.worst
    # At least this share of all values is at or below it, up to a bin.
    assert sum(value <= got + BIN_SECONDS for value in values) >= share * len(values) - 1e-6


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_merging_is_adding_all(first: list[float], second: list[float]) -> None:
    merged, together = _of(first), _of(first + second)
    merged.merge(_of(second))
    assert (merged.counts == together.counts).all()
    assert (merged.worst, merged.count) == (together.worst, len(first) + len(second))


def test_the_longest_is_exact_however_long() -> None:
    durations = _of([0.0101, 7.25, 0.02])
    assert durations.worst == durations.quantile(1.0) == 7.25
    assert durations.above(0.015) == 2
    assert durations.above(0.5) == 1


def test_no_and_negative_durations_are_zero() -> None:
    assert Durations().quantile(0.99) == 0
    assert _of([-1.0]).quantile(0.5) == 0
