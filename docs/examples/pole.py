"""Balance a pole that falls by the wall clock: it does not wait while the agent learns.

    seer-edge train --env pole:Pole-v0 --hz 30 --mem-budget 4MB --total-timesteps 20000 --freeze-at 8000

The pole is simulated, so this runs anywhere. On a robot, `Device` is your motor and your camera.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs import next_tick

SIDE = 84
GRAVITY, PUSH, FRICTION = 9.0, 6.0, 0.4
FALLEN = 0.6
"""Angle in radians at which the pole has fallen."""


class Device:
    """A pole on a motor, and a camera that sees it. Both run by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._push = self._angle = self._speed = 0.0
        self._at = clock()

    def place(self, angle: float) -> None:
        """Put the pole up, with the motor off."""
        with self._lock:
            self._push, self._angle, self._speed, self._at = 0.0, angle, 0.0, self._clock()

    def push(self, direction: float) -> None:
        """Set the motor: -1 to 1."""
        self._advance()
        with self._lock:
            self._push = direction

    def angle(self) -> float:
        """Return the angle of the pole in radians; 0 is upright."""
        self._advance()
        return self._angle

    def _advance(self) -> None:
        """Let happen what has happened since the last call."""
        with self._lock:
            now = self._clock()
            while self._at < now and abs(self._angle) < FALLEN:
                step = min(0.002, now - self._at)
                self._speed += step * (GRAVITY * math.sin(self._angle) + PUSH * self._push - FRICTION * self._speed)
                self._angle += step * self._speed
                self._at += step
            self._at = now

    def picture(self) -> NDArray[np.uint8]:
        """Return what the camera sees: gray, 84x84."""
        angle, image = self.angle(), np.zeros((SIDE, SIDE), np.uint8)
        top = (int(SIDE / 2 + 60 * math.sin(angle)), int(SIDE - 10 - 60 * math.cos(angle)))
        cv2.line(image, (SIDE // 2, SIDE - 10), top, 255, 4)
        return image


class Pole(gymnasium.Env[NDArray[np.uint8], int]):
    """Push left, not at all, or right. Each step that the pole stands is worth 1 minus how far it leans."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, steps: int = 300, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._most = Device(clock), steps
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._device.place(float(self.np_random.uniform(-0.1, 0.1)))
        return self._device.picture(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._device.push(float(action) - 1)
        self.wait_for_tick()  # the pole falls meanwhile
        angle = self._device.angle()
        self._steps += 1
        return self._device.picture(), 1 - abs(angle) / FALLEN, abs(angle) >= FALLEN, self._steps >= self._most, {}

    def wait_for_tick(self) -> None:
        """Wait until the newest observation is due."""
        next_tick()

    def rest(self) -> None:
        """Turn the motor off: called at the start, at the end, in a pause, and whenever something fails."""
        self._device.push(0.0)


gymnasium.register("Pole-v0", entry_point=Pole)
