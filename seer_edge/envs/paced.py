"""An environment that is stepped at a fixed rate, within limits, and at rest whenever nothing controls it."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from seer_edge.envs.actions import Action
from seer_edge.envs.ended_at_rest import ending_afterwards, moving
from seer_edge.envs.environment import EnvSpec, Frame, Step
from seer_edge.envs.exchange import ENV as OWN_LOOP
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.late import LateWatch
from seer_edge.envs.rest_process import RestProcess
from seer_edge.envs.safety import REST_AFTER_SECONDS, AskedLimits, Limits, limits_of, numbers
from seer_edge.envs.ticks import MISSED_SHARE_MAX, Ticks
from seer_edge.errors import RunStoppedError

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 0.02
RETRY_SECONDS = 1.0
"""How often a pause tries again to bring the environment to rest, after that failed."""


@contextmanager
def in_real_time(env: Guarded, asked: AskedLimits | None) -> Iterator["Guarded | Paced"]:
    """Context manager: the environment at the rate and within the limits of a run in real time.

    It is at rest before and after the block. A warning says if too many ticks were missed. Without `asked` it is `env`
    itself. Raises BadInputError for limits that do not fit the actions.
    """
    if asked is None:
        yield env
        return
    ticks = Ticks(1 / asked.hz)
    playing = Paced(env, ticks, limits_of(env.spec, env.safety, asked), asked.rest_after_seconds)
    LOG.info("in real time: %s", asked.flags())
    with ending_afterwards(), playing.kept_safe():
        yield playing
    missed, all_ticks = ticks.missed, ticks.missed + ticks.lateness.count
    if missed > MISSED_SHARE_MAX * all_ticks:
        LOG.warning("%d of %d ticks were missed: the rate was not %g actions a second", missed, all_ticks, asked.hz)


class PauseEndedError(Exception):
    """The loop ended in a pause, before the reset of an episode."""


class Paced:
    """The environment with one step for each tick.

    If a step or the agent takes `rest_after_seconds` longer than a period, the environment is brought to rest at once,
    from another thread. `paused()` brings it to rest too, and waits until that is false. Both cut the episode. An
    environment without a method `rest` is only paused.

    Attributes:
        at_rest: whether the environment was brought to rest, and has not moved since.
        paused: says whether to pause.
        halted: says whether to end a pause, because the loop ends.

    """

    def __init__(
        self, env: Guarded, ticks: Ticks, limits: Limits | None, rest_after_seconds: float = REST_AFTER_SECONDS
    ) -> None:
        self._env, self._ticks, self._limits = env, ticks, limits
        self._own_loop = env.spec.id == OWN_LOOP  # a program that keeps the time, and is at rest between episodes
        self._moves = env.safety.rest is not None and not self._own_loop
        self._most_seconds = ticks.period_seconds + rest_after_seconds
        self._late = LateWatch(env.rest_beside)
        self._frame: Frame  # the newest one
        self.at_rest = self._waiting = False
        self.paused: Callable[[], bool] = lambda: False
        self.halted: Callable[[], bool] = lambda: False

    @property
    def spec(self) -> EnvSpec:
        """See `Environment`."""
        return self._env.spec

    @property
    def new_scene(self) -> bool:
        """See `Environment`."""
        return self._env.new_scene

    @contextmanager
    def kept_safe(self) -> Iterator[None]:
        """Context manager: bring the environment to rest before and after the block, and if this process is killed."""
        command = self._env.safety.rest_command
        process = RestProcess(command) if command else None
        self._env.moves = True
        with moving():
            try:
                self.rest()
                yield
            finally:
                try:
                    self._rest_in_any_case()
                finally:
                    self._env.moves = False
                    self._late.close()
                    if process is not None:
                        process.end(in_order=self._env.rests)

    def rest(self) -> None:
        """Bring everything that moves to rest. Without a method `rest` the last action stays in force."""
        self._late.off()
        at_rest = self._env.rest()
        if self._moves and self._limits is not None and not isinstance(at_rest, int | None):
            self._limits.last = at_rest
        self.at_rest = True

    def _rest_in_any_case(self) -> None:
        """Bring everything to rest, once more if a signal ends the first try."""
        try:
            self.rest()
        except KeyboardInterrupt:
            self.rest()
            raise

    def pause(self) -> None:
        """Bring the environment to rest while `paused()`, and wait until that is over. Does nothing otherwise."""
        if self.paused():
            self.rest()
            self._wait()

    def reset(self) -> Frame:
        """Start an episode, after a pause if there is one. The next tick is one period after it.

        Raises PauseEndedError if the loop ends in the pause: a reset may move what a person has stopped.
        """
        self._late.off()
        if self.paused():
            self.pause()
            if self.halted():
                raise PauseEndedError
        self.at_rest = False
        if self._own_loop and self._limits is not None:
            self._limits.last = np.zeros_like(self._limits.low)
        self._frame = self._env.reset()
        self._ticks.restart()
        return self._frame

    def step(self, action: Action) -> Step:
        """Take one step within the limits, which ends with a tick. `discard` and `truncated` mark one that was cut."""
        step = Step(self._frame, 0.0, False, False, None)
        if not self._interrupted:
            step = self._send(action)
            if not self._interrupted:
                return step
        if self._late.late:
            LOG.warning("no step within %g s: brought to rest; a new episode begins", self._most_seconds)
        self.rest()
        self._wait()
        return step if step.terminated or step.truncated else replace(step, truncated=True, discard=True)

    @property
    def is_paused(self) -> bool:
        """Whether the environment is at rest in a pause. One without a method `rest` is only paused."""
        return self._waiting and self.paused() and (self._env.rests or not self._moves)

    @property
    def _interrupted(self) -> bool:
        return self._late.late or self.paused()

    def _send(self, action: Action) -> Step:
        self.at_rest = False
        if self._moves:
            self._late.expect(self._most_seconds)
        if isinstance(action, np.ndarray) and not np.isfinite(action).all():
            raise RunStoppedError(f"the action {numbers(action.tolist())} is not finite: training diverged")
        sent = action if self._limits is None else self._limits.apply(action)
        with self._ticks.one():
            step = self._env.step(sent)
        if self._limits is not None:
            executed = sent if step.action is None else step.action
            step = replace(step, action=executed)
            assert not isinstance(executed, int)
            self._limits.last = executed
        self._frame = step.frame
        return step

    def _wait(self) -> None:
        """Wait until the pause is over."""
        if not self.paused():
            return
        self._waiting, retry_at = True, time.monotonic() + RETRY_SECONDS
        LOG.info("paused, %s; kill -USR1 %d continues with a new episode", self._state(), os.getpid())
        while self.paused() and not self.halted():
            time.sleep(IDLE_SECONDS)
            if self._moves and not self._env.rests and time.monotonic() >= retry_at:
                self.rest()
                retry_at = time.monotonic() + RETRY_SECONDS
                if self._env.rests:
                    LOG.info("now at rest")
        self._waiting = False
        if not self.halted():
            LOG.info("the pause is over")

    def _state(self) -> str:
        if not self._moves:
            return "without a method rest of the environment"
        return "at rest" if self._env.rests else "NOT at rest; it is tried again each second"
