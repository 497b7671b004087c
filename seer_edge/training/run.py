"""The main job: train, freeze on the way, evaluate, save checkpoints, and report."""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from seer_edge.config.plan import BytePlan
from seer_edge.config.plan_text import evaluation_cost
from seer_edge.envs.games import Evaluation
from seer_edge.envs.recorder import Recorder
from seer_edge.errors import EXIT_UNSAFE, EnvironmentFailedError, RunStoppedError, StepEndedError
from seer_edge.machine.host import is_out_of_memory, out_of_memory_line
from seer_edge.machine.signals import StopSignal
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.snapshots import Snapshots
from seer_edge.runs.transfer import Imported
from seer_edge.training.checkpoint_policy import CheckpointPolicy
from seer_edge.training.components import OnHang, closed_on_failure
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.freeze import FreezeRefusedError, freeze
from seer_edge.training.imports import build_imported_session
from seer_edge.training.metrics import Console
from seer_edge.training.reporter import Reporter
from seer_edge.training.session import AnySession, Session, build_session, resume_session
from seer_edge.training.snapshot_policy import SnapshotPolicy
from seer_edge.training.summary import OBSERVATIONS
from seer_edge.training.trackers import ProgressCallback
from seer_edge.training.videos import EvaluationVideos
from seer_runtime import durable
from seer_runtime.replay.replay import NothingToSampleError
from seer_runtime.system.memory import cgroup_limit_bytes
from seer_runtime.system.notify import ServiceWatchdog
from seer_runtime.system.process import RssCeiling, settle
from seer_runtime.system.units import format_size

LOG = logging.getLogger(__name__)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors that free space does not end."""

OnProgress = Callable[[Mapping[str, float]], object]
"""Receives one row of `progress.csv`, by column, at each log interval."""


class Run(Generic[AnySession]):
    """One run, from where its session is to its exit status."""

    session_kind: type[Any] = Session

    def __init__(
        self, folder: RunFolder, session: AnySession, console: Console, state: Mapping[str, Any] | None
    ) -> None:
        """`state` is the `run.json` of the checkpoint that the session was restored from; None for a new run.

        Raises KeyError, TypeError or ValueError if `state` is malformed.
        """
        self.folder = folder
        self.session = session
        self.console = console
        self.reporter = Reporter(folder, session, console, state)
        self.checkpoints = CheckpointPolicy(folder, session, self.reporter)
        self.snapshots = SnapshotPolicy(Snapshots(folder.analysis), session, console)
        self.videos = EvaluationVideos(folder.videos, session, console)
        self.unsaved = state is None  # whether to save before the first step, so that the run can always be resumed
        limits = [limit for limit in (session.config.rss_limit_bytes, cgroup_limit_bytes()) if limit is not None]
        self.ceiling = RssCeiling(min(limits)) if limits else None

    def execute(self, stop: StopSignal) -> int:
        """Train to the end, or until `stop`; return the exit status.

        Raises RunStoppedError if the run stops for its own safety, OSError if the disk cannot be written.
        """
        outcome = self.reporter.outcome
        try:
            self.reporter.write_summary()
            if self.unsaved:
                self.checkpoints.save()
            self._train(ServiceWatchdog().asked(stop))
            path = self.checkpoints.save()
            if self.reporter.interval.steps:
                self.reporter.log(None)
            if stop():
                self.console.say(f"stopped at step {self.session.timestep:,}; wrote {path}")
            # A stop signal may arrive when everything is done.
            outcome.status = "finished" if self.reporter.is_complete else "interrupted"
        except BaseException as error:
            outcome.status = "failed"
            if isinstance(error, EnvironmentFailedError | OSError):
                self.checkpoints.rescue()
            if isinstance(error, EnvironmentFailedError):
                raise RunStoppedError(
                    f"the environment failed after step {self.session.timestep:,}: {error}"
                ) from error
            raise
        finally:
            self.reporter.close()
        return 0 if stop.received is None else 128 + stop.received

    def _train(self, stop: Callable[[], bool]) -> None:
        session, total = self.session, self.session.config.total_timesteps
        session.stop = stop
        while True:
            if stop():
                return
            self._do_due_work(stop)
            self._watch_memory()
            if session.timestep >= total or self.reporter.is_complete or stop():
                return
            try:
                self.reporter.stepped(session.step())
            except StepEndedError:
                return

    def _do_due_work(self, stop: Callable[[], bool]) -> None:
        """Freeze, evaluate, log and save what is due. A resumed run skips what it did before its checkpoint."""
        config, timestep, reporter = self.session.config, self.session.timestep, self.reporter
        compared = self.session.watch_freeze()
        if compared is not None:
            reporter.compared(compared)
        freezing = self._freeze_is_due()
        if freezing:
            self._freeze(stop)
        report = reporter.outcome.freeze
        self.snapshots.save_if_due(None if report is None else report.timestep)
        evaluation = None
        if self._evaluation_is_due():
            evaluation = self._evaluate(stop)
            if evaluation is None:
                return
        last = timestep in (reporter.evaluated_at, config.total_timesteps)
        logging = last or freezing or compared is not None or timestep % config.log_every == 0
        # A resumed run may evaluate, as it was asked to, at a step whose row is there already.
        if logging and (evaluation is not None or reporter.logged_at < timestep):
            reporter.log(evaluation, compared)
        self.checkpoints.save_if_due()

    def _freeze_is_due(self) -> bool:
        session = self.session
        if session.agent.frozen or self.reporter.outcome.freeze_refused is not None:
            return False
        return session.timestep == session.config.freeze_at or (session.watch is not None and session.watch.is_settled)

    def _evaluation_is_due(self) -> bool:
        """In the training environment an evaluation waits for the end of the episode, except at the end of the run."""
        session, config = self.session, self.session.config
        if config.eval_every is None:
            return False
        at_end = session.timestep == config.total_timesteps
        due_at = session.timestep if at_end else session.timestep - session.timestep % config.eval_every
        between = at_end or not config.evaluates_in_training or session.replay.store.between_scenes
        return self.reporter.evaluated_at < due_at and between

    def _freeze(self, stop: Callable[[], bool]) -> None:
        def converting(done: int, total: int) -> None:
            stop()  # reports to the service manager that the run is alive
            self.reporter.converting(done, total)

        watch = self.session.watch
        if watch is not None and not watch.is_settled:
            self.reporter.unsettled()
        try:
            report = freeze(self.session, self.folder.encoder, self.checkpoints.save_before_freeze, converting)
        except FreezeRefusedError as refusal:
            self.reporter.freeze_refused(refusal)
        else:
            self.reporter.frozen(report)

    def _evaluate(self, stop: Callable[[], bool]) -> Evaluation | None:
        """Return None if `stop` came before the last episode ended."""
        session, episodes = self.session, self.session.config.eval_episodes
        self.console.say(f"evaluation at step {session.timestep:,}: {evaluation_cost(session.config)}")

        def played(count: int) -> None:
            self.console.note(f"evaluation, {count} of {episodes} episodes")

        with self.videos.recording() as recorder:
            evaluation = self._play_evaluation(stop, played, recorder)
            if evaluation is None and recorder is not None:
                recorder.discard()  # a resumed run repeats the evaluation
        if evaluation is not None and self.reporter.evaluated(evaluation) and session.config.keep_best:
            self.checkpoints.save_best()
        return evaluation

    def _play_evaluation(
        self, stop: Callable[[], bool], played: Callable[[int], object], recorder: Recorder | None
    ) -> Evaluation | None:
        return evaluate_session(self.session.plan, self.session, stop, played, recorder)

    def _watch_memory(self) -> None:
        """Raise RunStoppedError if RSS stays above its limit; warn if it comes near."""
        pressure = None if self.ceiling is None else self.ceiling.check()
        if pressure is None:
            return
        after, limit = format_size(pressure.after_bytes), format_size(pressure.limit_bytes)
        self.console.warn(
            f"RSS {format_size(pressure.before_bytes)} of {limit}; {after} after freeing what was not in use"
        )
        if pressure.stop:
            self.checkpoints.rescue()
            own = pressure.limit_bytes == self.session.config.rss_limit_bytes
            raise RunStoppedError(
                f"RSS {after} is above the limit of {limit}{'' if own else ' of its cgroup'} at step "
                f"{self.session.timestep:,}; resume with a larger {'--rss-limit' if own else 'limit'} or a smaller "
                "--mem-budget"
            )

    def abandon(self, reason: str) -> None:
        """Save what is possible while the main thread hangs in the environment. The process must end after it."""
        self.console.say(f"no answer from the environment at step {self.session.timestep:,}: {reason}")
        self._rescue_hung(reason)

    def _rescue_hung(self, reason: str) -> None:
        self.reporter.outcome.status = "failed"
        self.checkpoints.rescue()
        self.reporter.close()


@dataclass(frozen=True)
class Supervision:
    """How a caller watches a run and ends it."""

    on_progress: OnProgress | None = None
    progress_bar: bool = False  # whether to show a bar on stderr, if that is a terminal
    stop: StopSignal | None = None  # ends the run early; by default, signals do


UNWATCHED = Supervision()


def train(
    plan: BytePlan,
    folder: RunFolder,
    imported: Imported | None = None,
    supervision: Supervision = UNWATCHED,
    kind: type[Run[Any]] = Run,
) -> int:
    """Start the run of `plan` in `folder`, with what it imports; return the exit status. Raises RunStoppedError."""
    folder = _place(plan, folder)

    def build(on_hang: OnHang) -> Run[Any]:
        console = Console(plan.config.total_timesteps, progress_bar=supervision.progress_bar)
        if imported is None:
            session = build_session(plan, on_hang, kind.session_kind)
        else:
            with checkpoint.reading(Path(plan.config.source or "")):
                session = build_imported_session(plan, imported, on_hang, kind.session_kind)
        with closed_on_failure(session.env):
            run = kind(folder, session, console, None)
            if session.graph is not None:
                durable.write_atomic(folder.encoder, session.graph)
            if imported is not None:
                run.reporter.imported(imported)
            return run

    return _execute(folder, build, supervision)


def resume(
    plan: BytePlan,
    folder: RunFolder,
    saved: Saved,
    supervision: Supervision = UNWATCHED,
    kind: type[Run[Any]] = Run,
) -> int:
    """Continue the run in `folder` from a checkpoint, under `plan`; return the exit status.

    Raises BadInputError if the checkpoint does not match the plan, RunStoppedError.
    """
    folder = _place(plan, folder)

    def build(on_hang: OnHang) -> Run[Any]:
        console = Console(plan.config.total_timesteps, saved.timestep, progress_bar=supervision.progress_bar)
        with checkpoint.reading(saved.path):
            session, notes = resume_session(plan, saved, on_hang, kind.session_kind)
        with closed_on_failure(session.env):
            with checkpoint.reading(saved.path):
                run = kind(folder, session, console, saved.run())
                json.dumps(run.reporter.describe(), allow_nan=False)  # an untrusted run.json may make no valid summary
            if plan.config.mem_budget_bytes != saved.config.mem_budget_bytes:
                run.reporter.outcome.peaks.pop(OBSERVATIONS, None)  # the peak under another budget
            run.unsaved = plan.config != saved.config
            notes += [f"{line}: last bits may differ" for line in folder.changed_versions()]
            console.say(f"resumed at step {saved.timestep:,} of {plan.config.total_timesteps:,}")
            for note in notes:
                console.say(f"note: {note}")
            for line in folder.repair(saved.config, session.graph):
                console.say(line)
            folder.write_config(plan.config)
            return run

    return _execute(folder, build, supervision, saved.timestep)


def _place(plan: BytePlan, folder: RunFolder) -> RunFolder:
    """Return the folder by its absolute path in real time, where the environment acts while the learner writes.

    It may have changed the working directory.
    """
    return folder if plan.config.hz is None else RunFolder(folder.path.absolute())


def _execute(
    folder: RunFolder,
    build: Callable[[OnHang], Run[Any]],
    supervision: Supervision,
    resumed_at: int | None = None,
) -> int:
    """Build a run and execute it; return the exit status.

    `resumed_at` is the step of the checkpoint that the run continues from. Raises RunStoppedError with what to do.
    """
    runs: list[Run[Any]] = []  # empty while the environment is built and renders its first frame

    def on_hang(reason: str) -> None:
        for run in runs:
            run.abandon(reason)
        LOG.critical("seer-edge: the environment failed: %s", reason)
        os._exit(EXIT_UNSAFE)

    with supervision.stop or StopSignal() as stop, contextlib.ExitStack() as closing:
        try:
            settle()  # most pages that the imports touched are not used again
            runs.append(build(on_hang))
            if supervision.on_progress is not None:
                runs[0].reporter.trackers.append(ProgressCallback(supervision.on_progress))
            closing.callback(runs[0].session.env.close)
            return runs[0].execute(stop)
        except OSError as error:
            newest = runs[0].reporter.outcome.checkpoint if runs else resumed_at
            kept = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is of step {newest:,}"
            advice = "make the folder writable" if error.errno in NOT_WRITABLE else "make room"
            raise RunStoppedError(
                f"{folder.path}: cannot be written any more ({error}); {kept}: {advice}, then resume"
            ) from error
        except NothingToSampleError as error:
            raise RunStoppedError(
                f"{folder.path}: nothing to learn from ({error}); give more --mem-budget or a smaller n_step"
            ) from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = out_of_memory_line(error)
            raise RunStoppedError(
                f"out of memory ({reason}); resume from the newest checkpoint, with a smaller --mem-budget"
            ) from error
