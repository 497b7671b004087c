"""A small pixel game that fails on demand: in a chosen way, in a chosen call of a chosen instance."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

GAME = "tests.faults.faulty_env:Faulty-v0"
SIDE = 42
EPISODE_STEPS = 20
FIRST, TRAINED, EVALUATED = 1, 2, 3
"""The instances in one command: the one for the plan, the run's, and the one of the first evaluation."""


@dataclass(frozen=True)
class Fault:
    """The failure `what` in the `count`-th call of `call` on one instance."""

    what: str
    count: int = 1
    call: str = "step"  # or init, reset, close
    instance: int = TRAINED


@dataclass
class _Planted:
    fault: Fault | None = None
    send: Callable[[Any], None] = print
    built: int = 0
    endless: bool = False
    reuses_its_buffer: bool = False


PLANTED = _Planted()


def plant(
    fault: Fault | None, send: Callable[[Any], None], *, endless: bool = False, reuses_its_buffer: bool = False
) -> None:
    """In the child process, make the game fail as `fault` says; `send` reports a hang when it starts."""
    PLANTED.fault, PLANTED.send = fault, send
    PLANTED.endless, PLANTED.reuses_its_buffer = endless, reuses_its_buffer


Answer = list[Any]
"""The result of `step`: frame, reward, terminated, truncated, info."""


def _raise(error: BaseException) -> None:
    raise error


def _sleep() -> None:
    while True:
        time.sleep(3600)


def _spin() -> None:
    while True:
        pass


def _read_a_silent_pipe() -> None:
    reading, _ = os.pipe()
    os.read(reading, 1)


HANGS: dict[str, Callable[[], None]] = {"sleep": _sleep, "loop": _spin, "pipe": _read_a_silent_pipe}
RAISES: dict[str, Callable[[], None]] = {
    "exception": lambda: _raise(RuntimeError("cable\npulled")),
    "SystemExit": lambda: _raise(SystemExit(0)),
    "MemoryError": lambda: _raise(MemoryError("no memory for a frame")),
    "OSError": lambda: _raise(OSError(5, "the camera does not answer")),
}
WRONG: dict[str, Callable[[Answer], None]] = {
    "NaN frame": lambda answer: _put(answer, 0, np.full((SIDE, SIDE), np.nan, np.float32)),
    "float frame": lambda answer: _put(answer, 0, answer[0].astype(np.float64)),
    "16-bit frame": lambda answer: _put(answer, 0, answer[0].astype(np.uint16)),
    "cut frame": lambda answer: _put(answer, 0, answer[0][:-1]),
    "no frame": lambda answer: _put(answer, 0, None),
    "NaN reward": lambda answer: _put(answer, 1, float("nan")),
    "infinite reward": lambda answer: _put(answer, 1, -float("inf")),
    "no reward": lambda answer: _put(answer, 1, None),
    "worded reward": lambda answer: _put(answer, 1, "1.0"),
    "no end": lambda answer: _put(answer, 2, None),
}


def _put(answer: Answer, index: int, value: Any) -> None:
    answer[index] = value


@dataclass
class _Calls:
    """Counts of the calls of one instance."""

    instance: int
    made: dict[str, int] = field(default_factory=dict)

    def due(self, call: str) -> str | None:
        """Hang or raise if the fault is due in this call, or return the name of the wrong result."""
        self.made[call] = self.made.get(call, 0) + 1
        fault = PLANTED.fault
        if fault is None or (fault.instance, fault.call, fault.count) != (self.instance, call, self.made[call]):
            return None
        if fault.what in HANGS:
            PLANTED.send(fault.what)
            HANGS[fault.what]()
        if fault.what in RAISES:
            RAISES[fault.what]()
        return fault.what


class Faulty(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """42x42 noise whose brightness shows the rewarded action; episodes of 20 steps with both ends in turn."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self) -> None:
        PLANTED.built += 1
        self._calls = _Calls(PLANTED.built)
        self._calls.due("init")
        self._buffer = np.zeros((SIDE, SIDE), np.uint8)
        self._episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._calls.due("reset")
        self._steps = 0
        self._episode += 1
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward = float(action == self._wanted)
        self._steps += 1
        over = self._steps == EPISODE_STEPS and not PLANTED.endless
        answer: Answer = [self._frame(), reward, over and self._episode % 2 == 0, over and self._episode % 2 == 1, {}]
        wrong = self._calls.due("step")
        if wrong is not None:
            WRONG[wrong](answer)
        return tuple(answer)

    def close(self) -> None:
        self._calls.due("close")

    def _frame(self) -> NDArray[np.uint8]:
        self._wanted = int(self.np_random.integers(3))
        frame = self.np_random.integers(60 * self._wanted, 60 * self._wanted + 130, (SIDE, SIDE), np.uint8)
        if not PLANTED.reuses_its_buffer:
            return frame
        self._buffer[:] = frame
        return self._buffer


gymnasium.register("Faulty-v0", Faulty, disable_env_checker=True)
