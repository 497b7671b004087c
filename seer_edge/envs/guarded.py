"""An environment whose failures cannot be taken for the runtime's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from seer_edge.envs import Action, EnvError, Environment, EnvOptions, EnvSpec, Frame, Step, make_env
from seer_edge.envs.checks import checked_frame, checked_step
from seer_edge.envs.watchdog import Watchdog
from seer_edge.errors import EnvironmentFailedError, origin
from seer_runtime.system.state import State, StateError


class Guarded:
    """Passes every call on and believes nothing that comes back.

    Raises EnvironmentFailedError for whatever `env` raises, an exit too, and for a frame, reward or end that is none.
    With a `timeout_seconds` a call that lasts longer is a hang: see `Watchdog` for what then happens to `on_hang`.
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
                raise ValueError("an environment with a timeout needs to know what to do about a hang")
            self._on_hang = on_hang
            self._watchdog = Watchdog(timeout_seconds, self._hang)

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids and shapes."""
        return self._env.spec

    @property
    def failed(self) -> bool:
        """Whether the environment has failed: what it holds is worth nothing then."""
        return self._failed

    def reset(self) -> Frame:
        """Begin an episode: its first frame."""
        with self._guard("reset"):
            return checked_frame(self._env.reset(), self._env.spec)

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` began a new scene."""
        return self._env.new_scene

    def step(self, action: Action) -> Step:
        """Take `action`."""
        with self._guard("step"):
            return checked_step(self._env.step(action), self._env.spec)

    def close(self) -> None:
        """Let go of the environment."""
        try:
            with self._guard("close"):
                self._env.close()
        finally:
            if self._watchdog is not None:
                self._watchdog.close()

    def state(self) -> State | None:
        """All that the trajectory goes on from; None of an environment that cannot be saved or has failed."""
        if self._failed:
            return None
        with self._guard("state"):
            return self._env.state()

    def restore(self, state: State) -> None:
        """Go on where `state` was taken. Raises StateError too."""
        with self._guard("restore"):
            self._env.restore(state)

    @contextmanager
    def _guard(self, call: str) -> Iterator[None]:
        try:
            with self._watchdog.watch(call) if self._watchdog is not None else nullcontext():
                yield
        except (EnvironmentFailedError, StateError, KeyboardInterrupt):
            self._failed = True  # an interrupt may have come in the middle of a step
            raise
        except BaseException as error:
            self._failed = True
            raise EnvironmentFailedError(origin(error)) from error

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
    """`make_env`, guarded from its construction on. Raises EnvError as that does, EnvironmentFailedError."""
    watchdog = None
    if timeout_seconds is not None and on_hang is not None:
        watchdog = Watchdog(timeout_seconds, lambda line: on_hang(f"environment {env!r}: {line}"))
    try:
        with watchdog.watch("construction") if watchdog is not None else nullcontext():
            environment = make_env(env, options, seed=seed, training=training)
    except (EnvError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise EnvironmentFailedError(origin(error)) from error
    finally:
        if watchdog is not None:
            watchdog.close()
    return Guarded(environment, timeout_seconds, on_hang)
