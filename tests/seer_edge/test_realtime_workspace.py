"""The workspace of a run in real time, whose control thread has an encoder, a frame stack and a queue of its own."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge
from seer_edge.config.real_time import FEED_FRAMES_MAX, FEED_FRAMES_MIN
from seer_runtime import durable

ENV = f"{__name__}:Still"
OPTIONS: dict[str, Any] = {
    "algo": "sac",
    "encoder": "impala",
    "augmentations": 15,
    "mem_budget": "20MB",
    "total_timesteps": 6,
    "freeze_at": 4,
    "eval_every": "never",
    "set": {"batch_size": 2, "learning_starts": 3, "hidden": 4, "random_steps": 2},
}


class Still(gymnasium.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """Black frames in color for ever."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, **options: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        return np.zeros((36, 36, 3), np.uint8), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        return np.zeros((36, 36, 3), np.uint8), 0.0, False, False, {}


def test_the_plan_of_a_run_in_real_time_has_the_workspace_of_its_control_thread() -> None:
    assert seer_edge.plan(ENV, resolution=180, **OPTIONS).workspace_bytes < 8_000_000
    with pytest.raises(
        seer_edge.BadInputError, match=r"^--resolution 180: .* B of workspace, and the cap is 8,000,000"
    ):
        seer_edge.plan(ENV, resolution=180, hz=5, **OPTIONS)


def test_the_queue_of_a_run_in_real_time_fills_the_planned_workspace() -> None:
    small, large, tiny = (
        seer_edge.plan(ENV, hz=5, **OPTIONS | {"resolution": resolution, "color": color})
        for resolution, color in ((36, "rgb"), (168, "rgb"), (36, "gray"))
    )
    assert 7_000_000 - small.frame_row_bytes < small.workspace_bytes <= 7_000_000
    assert large.feed_frames == FEED_FRAMES_MIN
    assert tiny.feed_frames == FEED_FRAMES_MAX
    assert seer_edge.plan(ENV, resolution=36, **OPTIONS).feed_frames == 0


@pytest.mark.integration
@pytest.mark.parametrize("resolution", [36, 168])
def test_a_freeze_in_real_time_fits_into_the_planned_workspace(tmp_path: Path, resolution: int) -> None:
    planned = seer_edge.plan(ENV, resolution=resolution, hz=5, **OPTIONS)
    seer_edge.train(ENV, run_dir=tmp_path / "run", resolution=resolution, hz=5, **OPTIONS)
    summary = durable.read_json(tmp_path / "run" / "summary.json")
    assert summary["freeze_refused"] is None
    assert summary["budget"]["workspace_bytes_peak"] == planned.workspace_bytes < 8_000_000
