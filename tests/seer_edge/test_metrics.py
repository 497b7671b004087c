"""The mean return of a log interval is that of the latest episodes, also after a resume."""

import random

import pytest

from seer_edge.envs import Episode
from seer_edge.training.metrics import Interval
from seer_edge.training.session import StepReport


def _play(interval: Interval, step: int, value: float | None) -> None:
    interval.add(step, StepReport(0.01, None, None if value is None else Episode(value, 7)))


def test_the_mean_covers_the_episodes_of_the_last_10000_steps_and_at_least_five() -> None:
    generator = random.Random(0)
    interval, episodes = Interval(), list[tuple[int, float]]()
    for step in range(0, 120_000, 100):
        often = 0.2 if step < 60_000 else 0.02  # 20 games within the window, then 2
        value = round(generator.uniform(-9, 9), 3) if generator.random() < often else None
        if value is not None:
            episodes.append((step, value))
        _play(interval, step, value)
        if generator.random() < 0.05:
            saved, interval = interval.state(), Interval()
            interval.restore(saved)
        recent = [value for ended, value in episodes if ended > step - 10_000]
        wanted = recent if len(recent) >= 5 else [value for _, value in episodes[-5:]]
        assert interval.mean_return == (pytest.approx(sum(wanted) / len(wanted)) if wanted else None)


def test_episodes_of_a_checkpoint_without_steps_count_as_the_oldest() -> None:
    interval = Interval()
    interval.restore({"episodes": [[2.0, 7]] * 100, "losses": [], "steps": 0, "seconds": 0.0})
    assert interval.mean_return == 2.0
    for step in range(20_000, 20_003):
        _play(interval, step, 12.0)
    assert interval.mean_return == pytest.approx((2 * 2.0 + 3 * 12.0) / 5)
