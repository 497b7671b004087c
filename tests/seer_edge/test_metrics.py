"""The means of a log interval: of the latest episodes and of all losses, also after a resume."""

import json
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


def test_the_mean_loss_is_that_of_all_updates_of_the_interval_also_after_a_resume() -> None:
    interval, losses = Interval(), [0.5, 3.25, 1.0, 7.5]
    for step, loss in enumerate([*losses[:2], None, *losses[2:]]):
        interval.add(step, StepReport(0.01, loss, None))
        saved, interval = json.loads(json.dumps(interval.state())), Interval()
        interval.restore(saved)
    assert interval.drain()["train/loss"] == sum(losses) / 4
    assert "train/loss" not in interval.drain()


def test_an_interval_without_a_step_has_no_speed() -> None:
    """A resumed run may evaluate at a step that it logged before."""
    interval = Interval()
    interval.add(1, StepReport(0.5, None, None))
    assert interval.drain() == {"time/fps": 2.0}
    assert interval.drain() == {}


def test_a_checkpoint_of_an_earlier_version_holds_each_loss() -> None:
    interval = Interval()
    interval.restore({"episodes": [], "losses": [1.0, 2.0], "steps": 2, "seconds": 0.5})
    interval.add(3, StepReport(0.01, 6.0, None))
    assert interval.drain()["train/loss"] == 3.0


def test_a_checkpoint_stays_small_in_a_long_log_interval() -> None:
    """With `--log-every 50000` it would otherwise be too large to write after some 40,000 updates."""
    interval = Interval()
    for step in range(50_000):
        interval.add(step, StepReport(0.01, step / 7, None))
    assert len(json.dumps(interval.state(), indent=2)) < 1_000
