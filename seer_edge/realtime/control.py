"""The control loop: at each tick it acts on the newest observation, and never waits for the learner."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from seer_edge.envs.games import Evaluation, evaluate
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.paced import IDLE_SECONDS, Paced, PauseEndedError
from seer_edge.envs.recorder import Recorder
from seer_edge.envs.safety import Limits
from seer_edge.envs.ticks import Ticks
from seer_edge.realtime.feed import Feed
from seer_edge.realtime.pilot import Pilot

SWITCH_SECONDS = 0.0005
"""How long another thread may hold Python's global lock while the control thread wants it. Python's default is 5 ms."""


@dataclass
class _Request:
    """An evaluation that the learner waits for."""

    play: Callable[[], Evaluation | None]
    done: threading.Event = field(default_factory=threading.Event)
    result: Evaluation | None = None


class Control:
    """Steps the environment at a fixed rate in the thread that calls `run`.

    `evaluate`, `halt` and `end` belong to the learner's thread.

    Attributes:
        ticks: the clock.

    """

    def __init__(self, env: Guarded, pilot: Pilot, feed: Feed, period_seconds: float, limits: Limits | None) -> None:
        self.ticks = Ticks(period_seconds)
        self._pilot, self._feed = pilot, feed
        self._env = Paced(env, self.ticks, limits, pilot.config.rest_after_seconds)
        self._request: _Request | None = None
        self._ended = self._halted = False
        self._closed = threading.Event()

    def run(self, stop: Callable[[], bool], paused: Callable[[], bool] = lambda: False) -> None:
        """Act until `stop()`, `halt` or `end`, except while `paused()`. Return after `end`.

        The environment is at rest before the learner gets its errors.
        """
        error: BaseException | None = None
        self._env.paused, self._env.halted = paused, lambda: self._ended or self._halted or stop()
        try:
            with _prompt_thread(), self._env.kept_safe():
                self._begin()
                while not self._env.halted():
                    if self._request is not None:
                        self._answer(self._request)
                    elif not self._pilot.is_done:
                        self._tick()
                    elif paused():
                        self._env.pause()
                    elif not self._env.at_rest:
                        self._env.rest()  # there is nothing more to learn
                    else:
                        time.sleep(IDLE_SECONDS)
        except PauseEndedError:
            pass  # nothing moves since the pause began
        except BaseException as raised:
            error = None if stop() else raised
        self.close(error)
        while not self._ended:
            time.sleep(IDLE_SECONDS)

    def _begin(self) -> None:
        """Begin an episode, unless the loop or the run ends: a reset may move what is at rest."""
        if self._env.halted() or self._pilot.is_done:
            return
        frame = self._env.reset()
        self._pilot.begin(frame, new_scene=self._env.new_scene)

    def _tick(self) -> None:
        action = self._pilot.act(self.ticks.at)
        step = self._env.step(action)
        self._pilot.stepped(action, step)
        if step.terminated or step.truncated:
            self._begin()

    def _answer(self, request: _Request) -> None:
        """Play an evaluation, and begin a new training episode afterwards."""
        self._pilot.follow_freeze()
        request.result = request.play()
        self._begin()
        self._request = None
        request.done.set()

    def evaluate(
        self,
        rng: np.random.Generator,
        stop: Callable[[], bool],
        played: Callable[[int], object],
        recorder: Recorder | None,
    ) -> Evaluation | None:
        """Let the control loop play an evaluation; return None if `stop` came first. The running episode is cut.

        Raises the error that has ended the loop, as `Feed.take` does.
        """
        config = self._pilot.config

        def play() -> Evaluation | None:
            return evaluate(
                self._env,
                self._pilot.perception,
                self._pilot.greedy,
                episodes=config.eval_episodes,
                epsilon=config.settings.evaluation_epsilon,
                rng=rng,
                max_steps=config.eval_max_steps,
                stop=stop,
                played=played,
                recorder=recorder,
            )

        self._request = request = _Request(play)
        while not (request.done.wait(IDLE_SECONDS) or self._closed.is_set()):
            self._feed.waits()
        if request.result is None and not stop():
            assert self._feed.error is not None
            raise self._feed.error
        return request.result

    @property
    def is_paused(self) -> bool:
        """Whether the environment is at rest in a pause."""
        return self._env.is_paused

    def halt(self) -> None:
        """End the loop, and wait until everything is at rest. The environment is not used any more."""
        self._halted = True
        self._closed.wait()

    def close(self, error: BaseException | None) -> None:
        """Give the learner `error`, or `ControlEndedError`, after the steps that wait. Nothing moves any more."""
        self._feed.end(error)
        self._closed.set()

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True


@contextmanager
def _prompt_thread() -> Iterator[None]:
    """Context manager: let this thread run soon after it wakes, and collect no garbage of what lives anyway."""
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
