"""A simulated robot in real time that logs each of its calls as a line: "reset", "step ACTION" or "rest"."""

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs import next_tick

SIDE = 28


class Robot(gymnasium.Env[NDArray[np.uint8], Any]):
    """Frames are noise, and episodes have `length` steps.

    `controls` is the number of continuous actions between -10 and 10; None has three discrete ones. The step `slow_at`
    takes `slow_seconds`, and the step `fail_at` raises. With `guarded`, `rest_command` writes the file LOG.stopped.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)

    def __init__(
        self,
        log: str,
        length: int = 30,
        controls: int | None = None,
        slow_at: int | None = None,
        slow_seconds: float = 0.0,
        fail_at: int | None = None,
        rest_fails: bool = False,
        guarded: bool = False,
    ) -> None:
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(3)
        if controls is not None:
            self.action_space = gymnasium.spaces.Box(-10, 10, (controls,), np.float32)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._length, self._slow, self._fail_at = length, (slow_at, slow_seconds), fail_at
        self._rest_fails, self._rng = rest_fails, np.random.default_rng(0)
        self._steps = self._in_episode = 0
        if guarded:
            self.rest_command = ["/bin/sh", "-c", f": > {log}.stopped"]

    def _write(self, line: str) -> None:
        os.write(self._log, f"{line}\n".encode())

    def _frame(self) -> NDArray[np.uint8]:
        return self._rng.integers(0, 255, (SIDE, SIDE), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._write("reset")
        self._in_episode = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._write("step " + " ".join(f"{value:.4f}" for value in np.atleast_1d(action)))
        self._steps += 1
        self._in_episode += 1
        next_tick()
        if self._steps == self._slow[0]:
            time.sleep(self._slow[1])
        if self._steps == self._fail_at:
            raise OSError("the camera is gone")
        return self._frame(), 1.0, False, self._in_episode >= self._length, {}

    def rest(self) -> None:
        self._write("rest")
        if self._rest_fails:
            raise OSError("the motors do not answer")


def events(log: Path) -> list[str]:
    """Return the lines so far, without actions."""
    return [line.partition(" ")[0] for line in log.read_text().splitlines()]


gymnasium.register("Robot-v0", entry_point=Robot)
