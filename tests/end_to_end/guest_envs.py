"""Environments that change the process in which they run, and one written for an old version of Gym."""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from typing import Any

import gymnasium
import numpy as np

print("guest 2.6.1\nHello from the community.")


class Guest(gymnasium.Env[Any, Any]):
    """Noise from the global generators, in episodes of 10 to 20 steps. It changes all of the process that it can."""

    observation_space = gymnasium.spaces.Box(0, 1, (42, 42), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, size: int = 0, patient: bool = False) -> None:
        self.length, self.patient = 10 + size, patient
        os.chdir(tempfile.mkdtemp())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        if "torch" in sys.modules:
            sys.modules["torch"].set_default_dtype(sys.modules["torch"].float64)
            sys.modules["torch"].set_grad_enabled(False)
        threading.Thread(target=time.sleep, args=(1_000,), name="forever").start()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert seed is None or seed < 2**31
        print("episode begins")
        os.write(1, b"a C library speaks\n")
        self.left = self.length + random.randint(0, 10)
        return self._picture(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.patient:
            time.sleep(0.01)
        self.left -= 1
        return self._picture(), np.random.rand(1), int(self.left == 0), 0, {}  # noqa: NPY002

    def close(self) -> None:
        raise RuntimeError("the link is gone")

    def _picture(self) -> Any:
        return np.random.randint(0, 2, (42, 42)).astype(np.uint8)  # noqa: NPY002


class OldGym(Guest):
    """An environment whose step returns four values, as in old versions of Gym."""

    def step(self, action: Any) -> Any:
        return *super().step(action)[:3], {}


gymnasium.register("Guest-v0", Guest)


class Stubborn(gymnasium.Env[Any, Any]):
    """A camera that can be opened once. It runs a model in float64, and leaves an alarm and a process behind."""

    observation_space = gymnasium.spaces.Dict(eye=gymnasium.spaces.Box(0, 1, (3, 30, 30), np.float32))
    action_space = gymnasium.spaces.Discrete(3)
    opened = False

    def __init__(self) -> None:
        assert not Stubborn.opened, "the device is busy"
        Stubborn.opened = True
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(1_000,), name="driver").start()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 15
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        import torch

        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        torch.inference_mode().__enter__()
        time.sleep(0.002)  # while an update runs
        signal.alarm(1_000)
        self.left -= 1
        return self._look(), 1.0, self.left == 0, False, {}

    def _look(self) -> Any:
        return {"eye": self.np_random.random((3, 30, 30), np.float32)}
