"""Environments that each fail in one way."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

FAILS_AT_STEP = 250


class Failing(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """42x42 noise without an end, until `how` happens."""

    observation_space = gymnasium.spaces.Box(0, 255, (42, 42), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, how: str) -> None:
        if how == "build":
            raise RuntimeError("no camera")
        self._how = how
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        if self._how == "reset":
            raise RuntimeError("camera is asleep")
        dtype = np.float64 if self._how == "dtype" else np.uint8
        return np.zeros((42, 42), dtype), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        failing = self._steps == FAILS_AT_STEP
        if failing and self._how == "step":
            raise RuntimeError("cable\npulled")
        shape = (41, 42) if failing and self._how == "shape" else (42, 42)
        frame = self.np_random.integers(0, 256, shape, np.uint8)
        reward = {"reward": float("nan"), "huge": 1e19}.get(self._how, 0.0) if failing else 0.0
        return frame, reward, False, False, {}


for _how in ("build", "reset", "dtype", "step", "shape", "reward", "huge"):
    gymnasium.register(f"Failing/{_how}-v0", Failing, kwargs={"how": _how}, disable_env_checker=True)
