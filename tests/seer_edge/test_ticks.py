"""The clock of control in real time, with simulated time."""

import pytest

from seer_edge.envs.ticks import Ticks, next_tick, tick_now


class Clock:
    """Time that passes when someone sleeps or works."""

    def __init__(self) -> None:
        self.now = 100.0
        self.oversleep = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.oversleep

    def ticks(self, period: float) -> Ticks:
        return Ticks(period, lambda: self.now, self.sleep)


def test_ticks_stay_on_the_grid_although_each_comes_late() -> None:
    clock = Clock()
    ticks, clock.oversleep = clock.ticks(0.1), 0.003
    times = []
    for _ in range(50):
        ticks.wait()
        times.append(ticks.at)
        clock.now += 0.04  # work
    assert times == pytest.approx([100.103 + 0.1 * index for index in range(50)])
    lateness, missed = ticks.drain()
    assert (lateness.count, missed) == (50, 0)
    assert lateness.worst == pytest.approx(0.003)


def test_a_long_step_misses_ticks_and_the_next_one_is_on_the_grid_again() -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    clock.now += 0.37
    ticks.wait()
    assert ticks.at == pytest.approx(100.37)  # at once
    assert ticks.lateness.worst == pytest.approx(0.27)
    assert ticks.missed == 2
    ticks.wait()
    assert ticks.at == pytest.approx(100.4)
    assert ticks.drain()[1] == 2
    assert ticks.drain()[1] == 0


def test_a_reset_of_the_environment_costs_no_tick() -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    clock.now += 5
    ticks.restart()
    ticks.wait()
    assert (ticks.at, ticks.missed) == (pytest.approx(105.1), 0)


@pytest.mark.parametrize(
    ("before", "after", "missed"), [(0.0, 0.05, 0), (0.0, 0.37, 2), (0.37, 0.0, 2), (0.37, 0.37, 5)]
)
def test_the_last_step_of_an_episode_misses_ticks_too(before: float, after: float, missed: int) -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    with ticks.one():
        clock.now += before
        next_tick()
        clock.now += after
    clock.now += 5  # a reset
    ticks.restart()
    assert ticks.drain()[1] == missed
    ticks.restart()
    assert ticks.missed == 0


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_step_waits_for_one_tick_however_often_it_asks(calls: int) -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    with ticks.one():
        for _ in range(calls):
            assert next_tick()
    assert ticks.at == pytest.approx(100.1)
    assert ticks.lateness.count == 1


def test_without_a_clock_next_tick_returns_at_once() -> None:
    assert not next_tick()
    tick_now()


def test_an_environment_may_set_its_own_time() -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    for seconds in (0.03, 0.09, 0.35):  # early twice, then late by a quarter of a second
        with ticks.one():
            clock.now += seconds
            tick_now()
            next_tick()
    assert (ticks.at, ticks.missed, ticks.lateness.count) == (pytest.approx(100.47), 0, 3)
    assert ticks.lateness.worst == pytest.approx(0.25)
    assert ticks.lateness.above(0.001) == 1


def test_a_step_that_fails_leaves_no_clock_behind() -> None:
    clock = Clock()
    ticks = clock.ticks(0.1)
    with pytest.raises(ZeroDivisionError), ticks.one():
        raise ZeroDivisionError
    next_tick()
    assert ticks.lateness.count == 0
