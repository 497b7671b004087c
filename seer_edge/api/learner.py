"""Learning for a program with its own loop."""

import contextlib
import math
import operator
import os
import threading
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from seer_edge.api import runs
from seer_edge.api.continued import check_options
from seer_edge.api.results import RunResult
from seer_edge.config.config import TrainConfig
from seer_edge.config.request import RunOptions, RunRequest
from seer_edge.config.values import NEVER
from seer_edge.envs import exchange
from seer_edge.envs.guarded import closing_idle
from seer_edge.errors import BadInputError
from seer_edge.machine.signals import StopSignal
from seer_edge.validation import path_of
from seer_runtime.system.process import start_thread

DAYS_30 = 30 * 24 * 3600.0
"""How long a program may wait between two steps."""


NOT_OPTIONS = {
    "env": "the environment of a Learner is your program",
    "env_kwargs": "the environment of a Learner is your program",
    "env_timeout": "a Learner waits as long as you do not call step",
    "eval_every": "a Learner plays no evaluations",
    "control_socket": "a Learner pauses while you do not call step",
}
"""Options of `train` that a Learner does not have, and why."""


class Learner:
    """An agent that learns on its own threads, while your program steps the world.

    Args:
        frame_shape: shape of a frame, (height, width) in gray or (height, width, 3) in RGB.
        actions: a number of actions, or the bounds (low, high) of continuous ones, each a sequence of numbers.
        run_dir: folder of the run. If it holds a run, the run continues.
        **options: the flags of `seer-edge train` as keywords; see `RunOptions` for units. `hz` is required: about how
            often a second you will call `step`. A run that continues takes those that `seer-edge resume` takes, such
            as `total_timesteps`, and keeps the others: they must be the same, or left out.

    Raises:
        BadInputError: an option cannot be used, or the folder holds a run of other frames, actions or another
                environment. Nothing was written.
        RuntimeError: another learner is open in this process.

    Examples:
        >>> import numpy as np
        >>> import seer_edge
        >>> world = np.random.default_rng(0)
        >>> with seer_edge.Learner(
        ...     (36, 36), 3, run_dir="runs/loop", hz=200, mem_budget="1MB", total_timesteps=60,
        ...     set={"batch_size": 8, "learning_starts": 20},
        ... ) as learner:
        ...     for tick in range(60):
        ...         frame = world.integers(0, 255, (36, 36), np.uint8)
        ...         action = learner.step(frame, reward=1.0, truncated=tick % 30 == 29)
        >>> learner.result.folder.name
        'loop'

    """

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        actions: int | tuple[Any, Any],
        *,
        run_dir: str | os.PathLike[str],
        **options: Unpack[RunOptions],
    ) -> None:
        folder, self._frame_shape = path_of("run_dir", run_dir).absolute(), _shape(frame_shape)
        self._actions = _bounds(actions)
        kwargs = {"shape": list(self._frame_shape), "actions": self._actions}
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._stop, self._exchange = StopSignal(), exchange.Exchange()
        self._in_episode, self._over = False, threading.Event()
        self._waits = False  # for the action of the last frame
        self._ends = False  # whether no action follows, because the run is about to end
        for name, reason in NOT_OPTIONS.items():
            if options.get(name) not in (None, NEVER):
                raise BadInputError(f"{name}: {reason}; leave it out")
        if options.get("hz") is None:
            raise BadInputError("hz: missing; give about how often a second you will call step")
        own: Any = {"env_timeout": DAYS_30, "eval_every": "never", "env_kwargs": kwargs}
        request = RunRequest.of(env=exchange.ENV, **{**options, **own})
        self._exchange.open()
        try:
            start_thread(lambda: self._run(options, request, folder))
        except MemoryError:
            self._exchange.close()
            raise
        try:
            while not (self._exchange.begun.wait(0.01) or self._over.is_set()):
                pass
        except BaseException:  # Ctrl-C
            self._end()
            raise
        if self._error is not None:
            raise self._error

    def _run(self, options: RunOptions, request: RunRequest, run_dir: Path) -> None:
        try:
            with contextlib.closing(self._exchange), closing_idle():
                if (run_dir / "config.json").exists():

                    def check(saved: TrainConfig) -> None:
                        _check_same_loop(run_dir, request.env_kwargs, saved)
                        check_options(run_dir, options, request, saved)

                    self._result = runs.resume_with(run_dir, request.config_fields(), {"stop": self._stop}, check)
                else:
                    self._result = runs.train_request(request, run_dir, {"stop": self._stop})
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    def step(
        self,
        frame: NDArray[np.uint8],
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        *,
        executed: Any = None,
        discard: bool = False,
    ) -> Any:
        """Give the newest frame and what followed the last action; return the next action.

        Args:
            frame: uint8, of the shape that the learner was made for. It may be changed after the call.
            reward: of the last action. It is ignored with the first frame of an episode.
            terminated: whether the episode ended, and nothing follows.
            truncated: whether the episode ended, for example at a time limit, and something could have followed.
            executed: the action that was executed, if it was not the one that the last call returned.
            discard: whether nothing can be learned from this step, for example because a person moved the robot.

        Returns:
            The action: an int, or a float32 array within the bounds. None if the episode ended, so that the next frame
            is the first of another one, and once the run has ended or the learner is closed (`done`).

        Raises:
            BadInputError: the frame has another shape or dtype, or `executed` is not an action.
            RunStoppedError: the run stopped to stay safe. A new learner with the same `run_dir` continues it.

        """
        # If Ctrl-C interrupted the last call, the program never had its action, and did something else.
        unknown = self._waits and executed is None
        info: dict[str, Any] = {"discard": bool(discard) or unknown}
        if executed is not None:
            info["executed_action"] = self._allowed(executed)
        given = exchange.Given(self._checked(frame), float(reward), bool(terminated), bool(truncated), info)
        ends = self._in_episode and (given.terminated or given.truncated)
        try:
            self._action()
            self._exchange.give(given, answered=not ends)
            self._in_episode = self._waits = not ends
            action = self._action()
            self._in_episode = action is not None
            self._ends = action is None and not ends
            return action
        except exchange.LoopEndedError:
            self._over.wait()
            if self._error is not None:
                raise self._error from None
            return None

    def _action(self) -> Any:
        """Wait for the action of the last frame. Return None if it has none. Raises LoopEndedError."""
        action = self._exchange.action() if self._waits else None
        self._waits = False
        return action

    def _checked(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        shape = self._frame_shape
        if not isinstance(frame, np.ndarray) or frame.shape != shape or frame.dtype != np.uint8:
            found = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise BadInputError(f"frame: {found}, not uint8 {list(shape)}; convert it, or make another learner")
        return frame.copy()

    def _allowed(self, executed: Any) -> Any:
        """Return the action that was executed. Raises BadInputError if it is invalid."""
        actions = self._actions
        try:
            if isinstance(actions, int):
                index = operator.index(executed)
                allowed = 0 <= index < actions
            else:
                executed = np.asarray(executed, np.float32)
                allowed = executed.shape == (len(actions[0]),) and bool(np.isfinite(executed).all())
        except (TypeError, ValueError):
            allowed = False
        if not allowed:
            wanted = f"0 to {actions - 1}" if isinstance(actions, int) else f"{len(actions[0])} finite numbers"
            raise BadInputError(f"executed {executed!r}: not an action; give {wanted}")
        return executed

    @property
    def done(self) -> bool:
        """Whether the run has reached its last step, or has ended otherwise."""
        return self._ends or self._over.is_set()

    @property
    def result(self) -> RunResult:
        """Folder and summary of the run. Raises RuntimeError before it has ended."""
        if self._result is None:
            raise RuntimeError("the run has no result yet; close the learner first")
        return self._result

    def close(self) -> None:
        """End the run after the step that is being learned, with a checkpoint. Raises the run's error, if it failed."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        """Ask the run to stop, unless it ends already, and wait until it has."""
        if not self._ends:
            self._stop.request()
        self._exchange.end()
        self._over.wait()

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _check_same_loop(folder: Path, kwargs: dict[str, Any] | None, saved: TrainConfig) -> None:
    """Raise BadInputError unless the run in the folder is of this loop: same frames and actions."""
    if saved.env != exchange.ENV:
        raise BadInputError(f"run_dir {folder}: holds a run of {saved.env}; give another folder")
    had, given = saved.env_kwargs or {}, kwargs or {}
    for name in given:
        if had.get(name) != given[name]:
            raise BadInputError(
                f"run_dir {folder}: its run has {name} {had.get(name)}, not {given[name]}; give another folder"
            )


def _shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of a frame as whole numbers. Raises BadInputError."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        sizes = ()
    if len(sizes) not in (2, 3) or min(sizes) < 1 or sizes[2:] not in ((), (3,)):
        raise BadInputError(f"frame_shape {shape!r}: give (height, width), or (height, width, 3) for RGB")
    return sizes


def _bounds(actions: Any) -> int | list[list[float]]:
    """Return the actions as JSON. Raises BadInputError."""
    if isinstance(actions, int | np.integer) and not isinstance(actions, bool) and actions >= 1:
        return int(actions)
    try:
        low, high = (np.asarray(bound, np.float64).ravel().tolist() for bound in actions)
    except (TypeError, ValueError):
        low = high = []
    if not low or len(low) != len(high) or not all(map(math.isfinite, [*low, *high])):
        raise BadInputError(f"actions {actions!r}: give a number of actions, or (low, high) with finite bounds")
    if any(least > most for least, most in zip(low, high, strict=True)):
        raise BadInputError(f"actions {actions!r}: a lower bound is above the upper one; give (low, high)")
    return [low, high]
