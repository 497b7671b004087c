"""A wrapper that isolates an environment from the process and reports its failures as EnvironmentFailedError."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from weakref import WeakSet

from seer_edge.envs import Action, EnvError, Environment, EnvOptions, EnvSpec, Frame, Step, make_env
from seer_edge.envs.black_frames import BlackFrames
from seer_edge.envs.checks import checked_frame, checked_step
from seer_edge.envs.exchange import ENV as OWN_LOOP
from seer_edge.envs.isolation import Isolation, NoIsolation
from seer_edge.envs.safety import Safety, action_at_rest, safety_of
from seer_edge.envs.watchdog import Watchdog
from seer_edge.errors import EXIT_UNSAFE, BadInputError, EnvironmentFailedError, describe_error
from seer_runtime.system.process import start_thread
from seer_runtime.system.state import State, StateError

LOG = logging.getLogger(__name__)

OnHang = Callable[[str], object]
REST_SECONDS = 1.0
"""How long a thread waits for an environment to come to rest while another call of it may hang."""


def ending(command: str) -> OnHang:
    """Return a function that ends the process of `command` with a message, because no hang can be interrupted."""

    def end(reason: str) -> None:
        LOG.critical("seer-edge %s: the environment failed: %s", command, reason)
        os._exit(EXIT_UNSAFE)

    return end


class Guarded:
    """An environment whose calls and return values are checked, and whose side effects are undone (see `Isolation`).

    Raises EnvironmentFailedError for any exception of `env`, SystemExit included, and for an invalid frame, reward or
    end flag. Raises BadInputError for an EnvError, after which no other attempt would succeed. With `timeout_seconds` a
    longer call is a hang, and a `Watchdog` calls `on_hang`. Raises ValueError where `on_hang` is missing then.

    While `moves` is set, a hang brings the environment to rest before `on_hang`. Frames that turn black are reported
    with the step, counted from `first_step`.
    """

    def __init__(
        self,
        env: Environment,
        timeout_seconds: float | None = None,
        on_hang: OnHang | None = None,
        isolation: Isolation | None = None,
        first_step: int = 0,
    ) -> None:
        self._env = env
        self._failed = self.moves = False
        self._options: EnvOptions | None = None  # what it was built with, if `open_guarded` may use it again
        self._names: tuple[str, ...] = ()  # how a caller may name it
        self._isolation = isolation or Isolation(0)
        self._black = BlackFrames(env.spec.id, first_step)
        self._resting, self.rests = threading.Lock(), False
        self._watch(timeout_seconds, on_hang)

    def _watch(self, timeout_seconds: float | None, on_hang: OnHang | None) -> None:
        self._watchdog: Watchdog | None = None
        if timeout_seconds is not None:
            if on_hang is None:
                raise ValueError("an environment with timeout_seconds needs on_hang")
            self._on_hang = on_hang
            self._watchdog = Watchdog(timeout_seconds, self._hang)

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids, shapes and action space."""
        return self._env.spec

    @property
    def failed(self) -> bool:
        """Whether a call has failed. The environment's state must not be used then."""
        return self._failed

    def reset(self) -> Frame:
        """Start an episode and return its checked first frame."""
        self.rests = False
        with self._guard("reset"):
            frame = checked_frame(self._isolation.run(True, self._env.reset), self._env.spec)
        self._black.see(frame)
        return frame

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` started a new scene."""
        return self._env.new_scene

    def step(self, action: Action) -> Step:
        """Take `action` and return the checked step."""
        self.rests = False
        with self._guard("step"):
            step = checked_step(self._isolation.run(False, self._env.step, action), self._env.spec)
        self._black.step(step.frame)
        return step

    @cached_property
    def safety(self) -> Safety:
        """How the environment is brought to rest, and the limits of its actions. Raises BadInputError."""
        with self._guard("safety"):
            return safety_of(self._env)

    def rest(self) -> Action | None:
        """Bring everything that moves to rest; return the agent's action that does so, if actions are continuous.

        Does nothing if the environment has no method `rest`. An exception of that is reported once and does not end the
        run. `rests` says whether that succeeded, and nothing was moved since.
        """
        with self._watchdog.watch("rest") if self._watchdog is not None else nullcontext(), self._resting:
            return self._rest(lambda rest: self._isolation.run(False, rest))

    def rest_beside(self) -> None:
        """Bring everything to rest from another thread, while a call may hang. Wait for it at most `REST_SECONDS`."""
        rested = threading.Event()

        def rest() -> None:
            with self._resting:
                self._rest(self._isolation.run_beside)
            rested.set()

        start_thread(rest)
        rested.wait(REST_SECONDS)

    def _rest(self, run: Callable[[Callable[[], object]], object]) -> Action | None:
        rest, self.rests = self.safety.rest, True
        try:
            return action_at_rest(self.spec, None if rest is None else run(rest))
        except KeyboardInterrupt:
            self.rests = False
            raise
        except BaseException as error:
            self.rests = False
            _report(f"environment {self.spec.id!r}: could not be brought to rest: {describe_error(error)}")
            return action_at_rest(self.spec, None)

    def close(self) -> None:
        """Close the environment and end the watchdog. An environment that raises is reported, because it is done with.

        While another one is in use, keep a Gymnasium environment open for `open_guarded` to use again: many libraries
        shut down for the whole process when one environment is closed.
        """
        _OPEN.discard(self)
        if _OPEN:
            self.set_aside()
        else:
            self._close()
            _close_idle()

    def set_aside(self) -> None:
        """Leave a Gymnasium environment open for `open_guarded` to use again, inside `closing_idle`. Close another."""
        _OPEN.discard(self)
        if self._options is not None and hasattr(self._env, "reseed") and not self._failed:
            _IDLE.append(self)  # still watched, because its close may hang
        else:
            self._close()

    def reused(
        self,
        env: str,
        options: EnvOptions,
        *,
        seed: int,
        timeout_seconds: float | None,
        on_hang: OnHang | None,
        first_step: int,
    ) -> "Guarded | None":
        """Return this idle environment as a new one with `seed`, or None if it was built with other arguments."""
        if env not in self._names or options != self._options:
            return None
        self._end_watch()
        self._env.reseed(seed)  # type: ignore[attr-defined]
        self._isolation.reseed(seed)
        return Guarded(self._env, timeout_seconds, on_hang, self._isolation, first_step)._known_as(env, options)

    def _known_as(self, env: str, options: EnvOptions) -> "Guarded":
        self._names, self._options = (env, self._env.spec.id), options
        _OPEN.add(self)
        return self

    def _close(self) -> None:
        try:
            with self._guard("close"):
                self._isolation.run(True, self._env.close)
        except EnvironmentFailedError as error:
            _report(f"environment {self._env.spec.id!r}: could not be closed: {error}")
        finally:
            self._isolation.release()
            self._end_watch()

    def _end_watch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()

    def state(self) -> State | None:
        """Return the state of the trajectory, or None for an environment that has failed or cannot be saved."""
        if self._failed:
            return None
        with self._guard("state"):
            return self._isolation.run(False, self._saved)

    def _saved(self) -> State | None:
        state = self._env.state()
        return None if state is None else self._isolation.generators.add_to(state)

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises StateError for an invalid one."""
        with self._guard("restore"):
            self._isolation.run(False, lambda: self._env.restore(self._isolation.generators.take_from(state)))

    @contextmanager
    def _guard(self, call: str) -> Iterator[None]:
        """Context manager: watch the call and turn its exceptions into EnvironmentFailedError.

        Raises MemoryError if the watchdog cannot start.
        """
        if self._watchdog is not None:
            self._watchdog.start()
        try:
            with self._watchdog.watch(call) if self._watchdog is not None else nullcontext():
                yield
        except (StateError, KeyboardInterrupt):
            self._failed = True  # an interrupt may have left the environment in the middle of a step
            raise
        except EnvironmentFailedError as error:
            self._failed, error.call = True, call
            raise
        except EnvError as error:
            self._failed = True
            raise BadInputError(f"--env {self._env.spec.id}: {error}") from error
        except BaseException as error:
            self._failed = True
            raise EnvironmentFailedError(describe_error(error), call) from error

    def _hang(self, line: str) -> None:
        self._failed = True
        self._isolation.leave()  # `on_hang` writes a checkpoint, perhaps below a relative path
        if self.moves:
            self.rest_beside()
        self._on_hang(f"environment {self._env.spec.id!r}: {line}")


_OPEN: WeakSet[Guarded] = WeakSet()
"""Environments of `open_guarded` that are in use."""
_IDLE: list[Guarded] = []
"""Environments that were closed while another one was in use, or that the plan of a run has left open for it."""
_reported: set[str] = set()


def _report(line: str) -> None:
    if line not in _reported:
        _reported.add(line)
        LOG.warning(line)


def _close_idle() -> None:
    while _IDLE and not _OPEN:
        _IDLE.pop()._close()


@contextmanager
def closing_idle() -> Iterator[None]:
    """Context manager and decorator: close environments that were set aside inside and not used again."""
    try:
        yield
    finally:
        _close_idle()


def open_guarded(
    env: str,
    options: EnvOptions,
    *,
    seed: int,
    training: bool,
    timeout_seconds: float | None = None,
    on_hang: OnHang | None = None,
    first_step: int = 0,
) -> Guarded:
    """Build an environment as `make_env` does, and return it guarded. The timeout covers its construction too.

    An environment that was set aside with these arguments is used again. Other idle ones are closed first, because a
    camera or a simulator can often be opened only once.

    `first_step` is the agent step at which it starts, for messages. Raises EnvError as `make_env` does, MemoryError if
    the watchdog cannot start, and EnvironmentFailedError for any other exception.
    """
    wanted = _of_gymnasium(options)
    for idle in _IDLE:
        reused = idle.reused(
            env, wanted, seed=seed, timeout_seconds=timeout_seconds, on_hang=on_hang, first_step=first_step
        )
        if reused is not None:
            _IDLE.remove(idle)
            return reused
    _close_idle()
    watchdog = None
    isolation = (NoIsolation if env == OWN_LOOP else Isolation)(seed)
    if timeout_seconds is not None and on_hang is not None:
        watchdog = Watchdog(timeout_seconds, lambda line: on_hang(f"environment {env!r}: {line}"))
        watchdog.start()
    try:
        with watchdog.watch("construction") if watchdog is not None else nullcontext():
            environment = isolation.run(True, make_env, env, options, seed=seed, training=training)
    except BaseException as error:
        isolation.release()
        if isinstance(error, EnvError | KeyboardInterrupt):
            raise
        raise EnvironmentFailedError(describe_error(error), "construction") from error
    finally:
        if watchdog is not None:
            watchdog.close()
    return Guarded(environment, timeout_seconds, on_hang, isolation, first_step)._known_as(env, wanted)


def _of_gymnasium(options: EnvOptions) -> EnvOptions:
    """Return `options` without those that Gymnasium environments ignore."""
    return replace(
        options, protocol="paper", action_repeat=None, resize=options.resize or "area", blank_at_lost_life=False
    )
