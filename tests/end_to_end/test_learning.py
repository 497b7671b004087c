"""Agents learn the pixel game, and keep their returns through the freeze."""

import csv
from collections.abc import Callable

import numpy as np
import pytest

from tests.end_to_end.conftest import Finished
from tests.end_to_end.pixel_match import ACTIONS, EPISODE_STEPS

RANDOM_RETURN = EPISODE_STEPS / ACTIONS


def evaluations(run: Finished) -> dict[int, float]:
    """Return the mean return of each evaluation by step."""
    with run.folder.progress.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/mean_reward"]]
    return {int(row["time/total_timesteps"]): float(row["eval/mean_reward"]) for row in rows}


@pytest.mark.slow
def test_a_trained_encoder_beats_a_random_one_and_the_freeze_keeps_its_return(
    short_run: Callable[..., Finished],
) -> None:
    trained = evaluations(short_run(freeze_at=2_000))
    random_features = evaluations(short_run(freeze_at=1))
    after_freeze = [mean for step, mean in trained.items() if step >= 2_000]
    assert len(after_freeze) == 5
    assert min(after_freeze) > 19
    assert min(after_freeze) > 2.5 * RANDOM_RETURN
    assert max(random_features.values()) < 16


@pytest.mark.slow
def test_prioritized_replay_learns_too(short_run: Callable[..., Finished]) -> None:
    run = short_run(freeze_at=1_500, total_timesteps=2_500, replay="prioritized", latent_codec="float16")
    assert evaluations(run)[2_500] > 18


@pytest.mark.slow
def test_learning_one_step_behind_the_environment_is_no_worse(short_run: Callable[..., Finished]) -> None:
    """Compare the mean return over all evaluations of three seeds each. The largest return is 20."""
    returns = {
        pipeline: [
            np.mean([*evaluations(short_run(freeze_at=2_000, seed=seed, pipeline=pipeline)).values()])
            for seed in range(3)
        ]
        for pipeline in (False, True)
    }
    print("mean return, --pipeline off and on:", {key: np.round(means, 2) for key, means in returns.items()})
    assert np.mean(returns[True]) > np.mean(returns[False]) - 1
