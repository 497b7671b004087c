"""A wrapper that reports every failure of an environment as EnvironmentFailedError."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from seer_edge.envs import Action, EnvError, Environment, EnvOptions, EnvSpec, Frame, Step, make_env
from seer_edge.envs.checks import checked_frame, checked_step
from seer_edge.envs.watchdog import Watchdog
from seer_edge.errors import EnvironmentFailedError, describe_error
from seer_runtime.system.state import State, StateError


class Guarded:
    """An environment whose calls and return values are checked.

    Raises EnvironmentFailedError for any exception of `env`, SystemExit included, and for an invalid frame, reward or
    end flag. With `timeout_seconds` a longer call is a hang, and a `Watchdog` calls `on_hang`. Raises ValueError where
    `on_hang` is missing then.
    """

    def __init__(
        self,
        env: Environment,
        timeout_seconds: float | None = None,
        on_hang: Callable[[str], object] | None = None,
    ) -> None:
        self._env = env
        self._failed = False
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
        with self._guard("reset"):
            return checked_frame(self._env.reset(), self._env.spec)

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` started a new scene."""
        return self._env.new_scene

    def step(self, action: Action) -> Step:
        """Take `action` and return the checked step."""
        with self._guard("step"):
            return checked_step(self._env.step(action), self._env.spec)

    def close(self) -> None:
        """Close the environment and end the watchdog."""
        try:
            with self._guard("close"):
                self._env.close()
        finally:
            if self._watchdog is not None:
                self._watchdog.close()

    def state(self) -> State | None:
        """Return the state of the trajectory, or None for an environment that has failed or cannot be saved."""
        if self._failed:
            return None
        with self._guard("state"):
            return self._env.state()

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises StateError for an invalid one."""
        with self._guard("restore"):
            self._env.restore(state)

    @contextmanager
    def _guard(self, call: str) -> Iterator[None]:
        """Context manager: watch the call and turn its exceptions into EnvironmentFailedError."""
        try:
            with self._watchdog.watch(call) if self._watchdog is not None else nullcontext():
                yield
        except (EnvironmentFailedError, StateError, KeyboardInterrupt):
            self._failed = True  # an interrupt may have left the environment in the middle of a step
            raise
        except BaseException as error:
            self._failed = True
            raise EnvironmentFailedError(describe_error(error)) from error

    def _hang(self, line: str) -> None:
        self._failed = True
        self._on_hang(f"environment {self._env.spec.id!r}: {line}")


def open_guarded(
    env: str,
    options: EnvOptions,
    *,
    seed: int,
    training: bool,
    timeout_seconds: float | None = None,
    on_hang: Callable[[str], object] | None = None,
) -> Guarded:
    """Build an environment as `make_env` does, and return it guarded. The timeout covers its construction too.

    Raises EnvError as `make_env` does, and EnvironmentFailedError for any other exception.
    """
    watchdog = None
    if timeout_seconds is not None and on_hang is not None:
        watchdog = Watchdog(timeout_seconds, lambda line: on_hang(f"environment {env!r}: {line}"))
    try:
        with watchdog.watch("construction") if watchdog is not None else nullcontext():
            environment = make_env(env, options, seed=seed, training=training)
    except (EnvError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise EnvironmentFailedError(describe_error(error)) from error
    finally:
        if watchdog is not None:
            watchdog.close()
    return Guarded(environment, timeout_seconds, on_hang)
