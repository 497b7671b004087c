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
from seer_edge.envs.paced import Paced
from seer_edge.envs.recorder import Recorder
from seer_edge.envs.ticks import Ticks
from seer_edge.realtime.feed import ControlEndedError, Feed
from seer_edge.realtime.pilot import Pilot

SWITCH_SECONDS = 0.0005
"""How long another thread may hold Python's global lock while the control thread wants it. Python's default is 5 ms."""
IDLE_SECONDS = 0.02


@dataclass
class _Request:
    """An evaluation that the learner waits for."""

    play: Callable[[], Evaluation | None]
    done: threading.Event = field(default_factory=threading.Event)
    result: Evaluation | None = None


class Control:
    """Steps the environment at a fixed rate in the thread that calls `run`.

    `evaluate` and `end` belong to the learner's thread.

    Attributes:
        ticks: the clock.

    """

    def __init__(self, env: Guarded, pilot: Pilot, feed: Feed, period_seconds: float) -> None:
        self.ticks = Ticks(period_seconds)
        self._pilot, self._feed = pilot, feed
        self._env = Paced(env, self.ticks)
        self._request: _Request | None = None
        self._ended = self._closed = False

    def run(self, stop: Callable[[], bool]) -> None:
        """Act until `stop()` or `end`. The environment's errors go to the learner. Return after `end`."""
        error: BaseException | None = None
        try:
            with _prompt_thread():
                self._begin()
                while not (self._ended or stop()):
                    if self._request is not None:
                        self._answer(self._request)
                    elif self._pilot.is_done:
                        time.sleep(IDLE_SECONDS)  # there is nothing more to learn
                    else:
                        self._tick()
        except BaseException as raised:
            error = None if stop() else raised
        self._closed = True
        self._feed.end(error)
        if self._request is not None:
            self._request.done.set()
        while not self._ended:
            time.sleep(IDLE_SECONDS)

    def _begin(self) -> None:
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
        try:
            self._pilot.follow_freeze()
            request.result = request.play()
            self._begin()
        finally:
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

        Raises ControlEndedError if the loop has ended.
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
        while not (request.done.wait(IDLE_SECONDS) or self._closed):
            pass
        if request.result is None and not stop():
            raise ControlEndedError
        return request.result

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
