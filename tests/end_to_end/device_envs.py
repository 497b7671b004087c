"""Environments as users build them for devices: one picture source, own action units, episodes without an end."""

import fcntl
import os
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Observation = NDArray[np.uint8]


class Device(gymnasium.Env[Observation, Any]):
    """Noise of 42x42, and episodes of `steps` steps (None: no episode ends). Raises for an action outside its space."""

    def __init__(self, action_space: Any = None, steps: int | None = 25, side: int = 42, reward: float = 1.0) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (side, side), np.uint8)
        self.action_space = action_space or gymnasium.spaces.Discrete(3)
        self._limit, self._reward = steps, reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        self._steps += 1
        return self._look(), self._reward, False, self._steps == self._limit, {}

    def _look(self) -> Observation:
        assert self.observation_space.shape is not None
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)


class OneCamera(Device):
    """A camera that can be opened once at a time, like a video device or a serial port."""

    def __init__(self) -> None:
        super().__init__()
        self._device: int | None = os.open(os.environ["ONE_CAMERA"], os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._device)
            raise OSError(16, "Device or resource busy") from error

    def close(self) -> None:
        if self._device is not None:
            os.close(self._device)
            self._device = None


def changes() -> Device:
    """Return an environment whose spaces depend on the environment's variables, as if its code had been edited."""
    actions = gymnasium.spaces.Discrete(int(os.environ.get("N_ACTIONS", "3")))
    return Device(actions, side=int(os.environ.get("SIDE", "42")))


def offset() -> Device:
    """Return an environment with the actions -1, 0 and 1."""
    return Device(gymnasium.spaces.Discrete(3, start=-1))


def bounds(reward: float = 1.0) -> Device:
    """Return an environment with steering in degrees and a throttle from 0 to 5."""
    box = gymnasium.spaces.Box(np.float32([-30.0, 0.0]), np.float32([30.0, 5.0]))
    return Device(box, side=50, reward=reward)


gymnasium.register("Device-v0", Device)
gymnasium.register("OneCamera-v0", OneCamera)
gymnasium.register("Endless-v0", Device, kwargs={"steps": None})
gymnasium.register("Changes-v0", changes)
gymnasium.register("Offset-v0", offset)
gymnasium.register("Bounds-v0", bounds)
gymnasium.register("HugeRewards-v0", bounds, kwargs={"reward": 1e6})
