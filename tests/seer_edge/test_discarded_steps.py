"""Steps that the environment discards, in a run without a control rate."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from seer_edge.api.runs import train_request
from seer_edge.config.request import RunRequest
from seer_edge.machine.signals import StopSignal

ENV = f"{__name__}:Held"
HELD_FROM, DISCARDED_MAX = 25, 20


class Held(gymnasium.Env[NDArray[np.uint8], int]):
    """A person holds the robot from a step on, and asks the run to stop meanwhile."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)
    stop: StopSignal
    steps = 0

    def reset(self, **options: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        return np.zeros((36, 36), np.uint8), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        Held.steps += 1
        held = Held.steps - HELD_FROM
        if held == DISCARDED_MAX // 2:
            Held.stop.request()
        assert held <= DISCARDED_MAX, "the run did not stop"
        truncated = Held.steps % 10 == 0
        return np.full((36, 36), Held.steps, np.uint8), 1.0, False, truncated, {"discard": held > 0}


@pytest.mark.integration
@pytest.mark.parametrize("pipeline", [True, False])
def test_a_run_stops_while_the_environment_discards_all_steps(pipeline: bool, tmp_path: Path) -> None:
    Held.stop, Held.steps = StopSignal(), 0
    brief = {"batch_size": 4, "learning_starts": 10, "hidden": 8, "n_step": 2}
    options: dict[str, Any] = {"mem_budget": "1MB", "total_timesteps": 60, "eval_every": "never", "set": brief}
    request = RunRequest.of(env=ENV, pipeline=pipeline, **options)
    result = train_request(request, tmp_path / "run", {"stop": Held.stop})
    assert (result.status, result.timestep) == ("interrupted", HELD_FROM)
    assert result.summary["checkpoint"] == HELD_FROM
