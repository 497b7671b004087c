"""The least work of each part of a step, run alone: matrix products, copies, emulator frames, a file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

Job = Callable[[], object]
Clock = Callable[[], float]

PRODUCT_SIDE = 2048
_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten.convolution_backward,
}


class _Recorder(TorchDispatchMode):
    """Records each matrix product and convolution that is computed, with its input tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def products(job: Job) -> Job:
    """Return a job that repeats the matrix products and convolutions of `job`, forward and backward, on its tensors."""
    with _Recorder() as recorder:
        job()
    calls = [(func, _detached(args), kwargs) for func, args, kwargs in recorder.calls]

    @torch.no_grad()
    def run() -> None:
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    return run


def _detached(args: Any) -> Any:
    return tuple(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args)


def copy_of(size_bytes: int) -> Job:
    """Return a job that copies this many bytes."""
    source, target = np.ones(size_bytes, np.uint8), np.empty(size_bytes, np.uint8)
    return lambda: np.copyto(target, source)


def file_of(size_bytes: int, path: Path) -> Job:
    """Return a job that writes this many bytes to a file and syncs it to disk."""
    values = np.ones(size_bytes, np.uint8)

    def write() -> None:
        with path.open("wb") as file:
            file.write(values.data)
            file.flush()
            os.fsync(file.fileno())

    return write


def emulator(env_id: str, frames: int) -> Job | None:
    """Return a job that runs this many emulator frames without reading screens, or None for other environments."""
    if not env_id.startswith("ALE/"):
        return None
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(env_id, frameskip=1, repeat_action_probability=0.0)
    env.reset(seed=0)
    game: Any = env.unwrapped
    press = game.ale.getMinimalActionSet()[1]

    def run() -> None:
        for _ in range(frames):
            game.ale.act(press)
        if game.ale.game_over():
            game.ale.reset_game()

    return run


def time_in_turns(
    job: Job, yardstick: Job | None, times: int, clock: Clock, before: Job | None = None
) -> tuple[list[float], list[float]]:
    """Time `times` calls of a job in turns with its yardstick; return both lists of milliseconds, ascending.

    Taking turns exposes both to the same disturbances. The first call of each is not counted. `before` is called before
    the job and is not timed.
    """
    jobs = [job] if yardstick is None else [job, yardstick]
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(times + 1):
        if before is not None:
            before()
        for which, measured in zip(jobs, taken, strict=False):
            begin = clock()
            which()
            if index:
                measured.append(1e3 * (clock() - begin))
    return sorted(taken[0]), sorted(taken[1])


def matrix_rate(clock: Clock) -> float:
    """Measure the float32 GFLOP/s of a square matrix product, the best of ten."""
    square = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE)
    taken, _ = time_in_turns(lambda: square @ square, None, 10, clock)
    return 2 * PRODUCT_SIDE**3 / (1e6 * taken[0])
