"""The random play of a plan: the steps of a short run at most, for a bounded time, in whole blocks."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge.api.frame_sample
from seer_edge.api.frame_sample import SAMPLE_ROWS, sampled_row_bytes
from seer_edge.envs import EnvOptions
from seer_runtime.replay.block_format import BLOCK_ROWS

Lengths = Callable[[int], int]


@pytest.fixture
def rows_of(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    """A function that returns how many frames are compressed for a run of so many steps."""

    def count(total_timesteps: int) -> int:
        found: list[NDArray[Any]] = []
        monkeypatch.setattr(
            seer_edge.api.frame_sample, "packed_row_bytes", lambda rows: found.append(rows.copy()) or 1.0
        )
        assert sampled_row_bytes("ALE/Alien-v5", EnvOptions(), total_timesteps) == 1.0
        assert all(len(np.unique(row)) > 1 for row in found[0])  # every row holds a picture
        return len(found[0])

    return count


@pytest.mark.parametrize(("steps", "rows"), [(1, BLOCK_ROWS), (20, 24), (10**6, SAMPLE_ROWS)])
def test_no_more_steps_are_played_than_the_run_has(steps: int, rows: int, rows_of: Lengths) -> None:
    assert rows_of(steps) == rows


def test_a_slow_environment_is_played_for_a_bounded_time(rows_of: Lengths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seer_edge.api.frame_sample, "SECONDS_MAX", 0.0)
    assert rows_of(10**6) == BLOCK_ROWS


def test_a_message_announces_the_random_play(rows_of: Lengths, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "seer_edge"):
        rows_of(20)
    assert "playing 24 random steps to see how far frames compress" in caplog.text
