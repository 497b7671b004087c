"""A run in real time: the main thread controls, another one learns, evaluates, freezes and saves."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import torch

from seer_edge.envs.games import Evaluation, game_seeds
from seer_edge.envs.recorder import Recorder
from seer_edge.errors import EnvironmentFailedError
from seer_edge.machine.signals import PauseSignal, StopSignal
from seer_edge.realtime.feed import ControlEndedError
from seer_edge.realtime.remote import Remote
from seer_edge.realtime.session import RealTimeSession
from seer_edge.training.run import Run
from seer_runtime.system.process import start_thread

STORE_SECONDS = 5.0
"""How long a run that ends stores the steps that wait. Service managers kill it if it takes much longer."""
ABANDON_SECONDS = 60.0
"""How long the learner may take to save after the environment has hung."""
LEARNER_NICE = 5
"""Added to the priority of the learner's thread, so that the control thread runs first on a busy machine."""


class RealTimeRun(Run[RealTimeSession]):
    """A run whose main thread is the control thread. The environment and its OpenGL context stay there."""

    session_kind = RealTimeSession

    def execute(self, stop: StopSignal) -> int:
        """Control in this thread and learn in another one, until the run ends; return the exit status.

        Raises what `Run.execute` raises.
        """
        self._learned = threading.Event()
        control = self.session.open_control()
        ended: list[int | BaseException] = []

        def learn() -> None:
            try:
                _yield_to_control(self.session.config.threads)
                ended.append(super(RealTimeRun, self).execute(stop))
            except BaseException as error:
                ended.append(error)
            finally:
                self._learned.set()
                control.end()

        with PauseSignal() as paused, self._control_socket(Remote(self.session, stop, paused)):
            start_thread(learn)
            control.run(stop, paused)
        (result,) = ended
        if isinstance(result, BaseException):
            raise result
        return result

    @contextlib.contextmanager
    def _control_socket(self, remote: Remote) -> Iterator[None]:
        """Context manager: listen at --control-socket. If it cannot be made, warn and continue."""
        path = self.session.config.control_socket
        with contextlib.ExitStack() as opened:
            if path is not None:
                from seer_edge.machine.control_socket import ControlSocket

                try:
                    opened.enter_context(ControlSocket(path, remote.obey))
                except OSError as error:
                    self.console.warn(f"--control-socket {path}: cannot be used ({error.strerror}); the run continues")
            yield

    def _train(self, stop: Callable[[], bool]) -> None:

        def waits() -> None:
            stop()  # reports to the service manager that the run is alive
            self.reporter.follow_status()

        self.session.feed.waits = waits
        try:
            super()._train(stop)
        except ControlEndedError:
            if not stop():
                raise
        finally:
            self.session.control.halt()  # the last checkpoint is written at rest
        self._store_waiting()

    def _do_due_work(self, stop: Callable[[], bool]) -> None:
        self.reporter.follow_status()  # also if no step is waited for after a pause
        super()._do_due_work(stop)

    def _store_waiting(self) -> None:
        """Store the steps that wait, up to one after which other work is due. Count the others as dropped."""
        session, deadline = self.session, time.monotonic() + STORE_SECONDS
        with contextlib.suppress(ControlEndedError):
            while session.feed.waiting and time.monotonic() < deadline and not self._leaves_work():
                self.reporter.stepped(session.step())
        lost = session.drop_waiting()
        if lost:
            self.console.say(f"{lost:,} of the last steps are not stored")

    def _leaves_work(self) -> bool:
        """Whether a resumed run begins with something other than a step. Later steps do not belong to it yet."""
        session, reporter = self.session, self.reporter
        timestep, watch = session.timestep, session.watch
        return (
            reporter.is_complete
            or self._freeze_is_due()
            or self._evaluation_is_due()
            or (watch is not None and watch.is_due(timestep, session.config.settings.learning_starts))
            or (timestep in session.config.keep_checkpoint and reporter.outcome.checkpoint != timestep)
        )

    def _rescue_hung(self, reason: str) -> None:
        """Let the learner save, because it may be using the session."""
        self.session.control.close(EnvironmentFailedError(reason))
        self._learned.wait(ABANDON_SECONDS)

    def _play_evaluation(
        self, stop: Callable[[], bool], played: Callable[[int], object], recorder: Recorder | None
    ) -> Evaluation | None:
        _, rng = game_seeds(self.session.config.seed, self.session.timestep)
        return self.session.control.evaluate(rng, stop, played, recorder)


def _yield_to_control(threads: int) -> None:
    torch.set_num_threads(threads)  # of this thread
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.nice(0) + LEARNER_NICE, 19))
