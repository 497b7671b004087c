"""The main job: train, freeze on the way, checkpoint, evaluate, and say what happens."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seer_edge.config.plan import BytePlan
from seer_edge.envs.games import Evaluation
from seer_edge.errors import EXIT_UNSAFE, EnvironmentFailedError, RunStoppedError
from seer_edge.machine.host import is_out_of_memory
from seer_edge.machine.signals import StopSignal
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.transfer import TakenEncoder
from seer_edge.training.codec_choice import CALIBRATION_ROWS, OUTPUT_ERROR_BOUND
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.freeze import FreezeRefusedError, FreezeReport, freeze
from seer_edge.training.metrics import Console, Interval, PhaseClock, TensorBoard, Tracker
from seer_edge.training.session import OnHang, Session, build_session, resume_session
from seer_edge.training.summary import OBSERVATIONS, Outcome, flops, summary
from seer_edge.training.tables import changed_tables, episode_row, open_tables
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.replay.replay import NothingToSampleError
from seer_runtime.system.ledger import Line
from seer_runtime.system.memory import cgroup_limit_bytes
from seer_runtime.system.notify import ServiceWatchdog
from seer_runtime.system.process import RssCeiling, rss_bytes, settle
from seer_runtime.system.units import format_size


class Run:
    """One run from where its session stands to its exit status."""

    def __init__(self, folder: RunFolder, session: Session, console: Console, state: Mapping[str, Any] | None) -> None:
        """`state` is what an earlier part of the run told of itself; None, or another configuration, is saved at once.

        Raises KeyError, TypeError or ValueError for anything else.
        """
        self.folder = folder
        self.session = session
        self._told = session.plan.config  # what the folder's config.json says
        self.console = console
        self.outcome, self.clock, self.interval = Outcome(), PhaseClock(), Interval()
        self.logged_at = self.evaluated_at = 0  # the step of the last row, of the last evaluation
        self._begin = time.monotonic()
        if state is not None:
            self.outcome = Outcome.of(state["outcome"])
            self.outcome.resumed_at.append(session.timestep)
            self.outcome.checkpoint = session.timestep
            self.clock.restore(state["clock"])
            self.interval.restore(state["interval"])
            self.logged_at, self.evaluated_at = int(state["logged_at"]), int(state["evaluated_at"])
            self._begin -= float(state["seconds"])
        self._tables = open_tables(folder, self.logged_at, session.timestep)
        for warning in [] if state is None else changed_tables(self._tables, state):
            console.say(f"warning: {warning}")
        self.trackers: list[Tracker] = [self._tables["progress"]]
        if self.plan.config.tensorboard:
            self.trackers.append(TensorBoard(folder.tensorboard, self.logged_at))
        limits = [limit for limit in (self.plan.config.rss_limit_bytes, cgroup_limit_bytes()) if limit is not None]
        self.ceiling = RssCeiling(min(limits)) if limits else None
        self.unsaved = state is None  # so that there is always something to resume, as it was asked for
        self._saved_at = time.monotonic()

    @property
    def plan(self) -> BytePlan:
        """The session's: the freeze may choose the codec."""
        return self.session.plan

    def state(self) -> dict[str, Any]:
        """What a later part of the run has to know of this one."""
        return {
            "outcome": {**self.outcome.state(), "peaks": self.outcome.measure(self.session)},
            "clock": self.clock.state(),
            "interval": self.interval.state(),
            "logged_at": self.logged_at,
            **{name: table.digest for name, table in self._tables.items()},
            "evaluated_at": self.evaluated_at,
            "seconds": time.monotonic() - self._begin,
        }

    def execute(self, stop: StopSignal) -> int:
        """Train to the end, or until `stop`; returns the exit status."""
        try:
            self._write_summary()
            if self.unsaved:
                self.save()
            self._train(ServiceWatchdog().asked(stop))
            path = self.save()
            if self.interval.steps:
                self._log(None)
            if stop():
                self.console.say(f"stopped at step {self.session.timestep:,}; wrote {path}")
            # A stop may come when all is done.
            done = self.evaluated_at == self.plan.config.total_timesteps
            self.outcome.status = "finished" if done else "interrupted"
        except BaseException as error:
            self.outcome.status = "failed"
            if isinstance(error, EnvironmentFailedError | OSError):
                self._rescue()
            if isinstance(error, EnvironmentFailedError):
                raise RunStoppedError(_failed(self.session, error)) from error
            raise
        finally:
            self._end()
        return 0 if stop.received is None else 128 + stop.received

    def _train(self, stop: Callable[[], bool]) -> None:
        session, total = self.session, self.plan.config.total_timesteps
        while True:
            if stop():
                return
            self._do_what_is_due(stop)
            self._watch_memory()
            if session.timestep >= total or stop():
                return
            report = session.step()
            self.clock.add(session.phase, report)
            self.interval.add(report)
            if report.episode is not None:
                self._tables["episodes"].write(episode_row(session.timestep, report.episode, session.agent.updates))
            self.console.advance(session.timestep)

    def _do_what_is_due(self, stop: Callable[[], bool]) -> None:
        """Everything between two steps; what a generation says was done at this step already is not done again."""
        config, timestep = self.plan.config, self.session.timestep
        if timestep == config.freeze_at and not self.session.agent.frozen and self.outcome.freeze_refused is None:
            self._freeze()
        evaluating = timestep == config.total_timesteps or (timestep > 0 and timestep % config.eval_every == 0)
        evaluation = None
        if evaluating and self.evaluated_at < timestep:
            evaluation = self._evaluate(stop)
            if evaluation is None:
                return
        logging = evaluating or timestep == config.freeze_at or timestep % config.log_every == 0
        if logging and self.logged_at < timestep:
            self._log(evaluation)
        if self._checkpoint_is_due():
            self._checkpoint()

    # --- checkpoints ---------------------------------------------------------------------------------------

    def save(self) -> str:
        """Publish a generation; returns its folder. Raises OSError where it cannot be written."""
        for tracker in (*self.trackers, self._tables["episodes"]):
            tracker.sync()
        path = checkpoint.save(self.session, self.folder.checkpoints, self.state())
        self.outcome.checkpoint, self._saved_at = self.session.timestep, time.monotonic()
        if self._told != self.plan.config:
            self.folder.write_config(self.plan.config)
            self._told = self.plan.config
        return str(path)

    def _checkpoint_is_due(self) -> bool:
        config, timestep = self.plan.config, self.session.timestep
        if timestep in (self.outcome.checkpoint, config.total_timesteps):
            return False
        if config.checkpoint_every_steps is not None:
            return timestep % config.checkpoint_every_steps == 0
        return time.monotonic() - self._saved_at >= (config.checkpoint_every_seconds or 0)

    def _checkpoint(self) -> None:
        """One on the way: where it fails the run goes on, with the last good one behind it."""
        try:
            self.save()
        except OSError as error:
            self._saved_at = time.monotonic()
            self.console.say(
                f"warning: no checkpoint at step {self.session.timestep:,} ({error}); the run goes on, "
                f"that of step {self.outcome.checkpoint:,} stands"
            )

    def _rescue(self) -> None:
        """The agent and the replay are sound, so the steps since the last generation need not be lost."""
        if self.outcome.checkpoint == self.session.timestep:
            return
        with contextlib.suppress(OSError, RunStoppedError):
            self.console.say(f"wrote {self.save()}")

    def abandon(self, reason: str) -> None:
        """Save what there is while the main thread is stuck in the environment; the process has to end after it."""
        self.console.say(f"no answer from the environment at step {self.session.timestep:,}: {reason}")
        self.outcome.status = "failed"
        self._rescue()
        self._end()

    def _end(self) -> None:
        try:
            self._write_summary()
        except OSError as error:
            self.console.say(f"warning: {self.folder.summary} is not of the end ({error})")
        for tracker in (*self.trackers, self._tables["episodes"]):
            with contextlib.suppress(OSError):
                tracker.close()
        self.console.close()

    def _watch_memory(self) -> None:
        pressure = None if self.ceiling is None else self.ceiling.check()
        if pressure is None:
            return
        after, limit = format_size(pressure.after_bytes), format_size(pressure.limit_bytes)
        self.console.say(
            f"warning: RSS {format_size(pressure.before_bytes)} of {limit}; {after} after freeing what was not in use"
        )
        if pressure.stop:
            self._rescue()
            raise RunStoppedError(
                f"RSS {after} is above the limit of {limit} at step {self.session.timestep:,}; "
                "go on with resume and a larger --rss-limit or a smaller --mem-budget"
            )

    # --- what happens now and then -------------------------------------------------------------------------

    def begin_frozen(self, taken: TakenEncoder) -> None:
        """Say whose encoder this is; the freeze stands at step 0 with nothing to carry over."""
        if self.session.graph is not None:
            durable.write_atomic(self.folder.encoder, self.session.graph)
        rss, store = rss_bytes(), self.session.replay.store
        self.outcome.freeze = FreezeReport(0, 0, 0.0, rss, rss, rss, None)
        self.console.say(
            f"encoder of {self.plan.config.source}, step {taken.timestep:,}, frozen from the start; "
            f"capacity {store.capacity:,} {'latents' if self.session.graph else 'frames'}"
        )
        for note in taken.notes:
            self.console.say(note)

    def _freeze(self) -> None:
        try:
            report = freeze(self.session, self.folder.encoder, self.save)
        except FreezeRefusedError as refusal:
            self.outcome.freeze_refused = str(refusal)
            self.console.say(f"{refusal}; the run goes on from pixels")
            return
        self.outcome.freeze = report
        store = self.session.replay.store
        if report.codec_errors is not None:
            errors = ", ".join(f"{name} {error:.2%}" for name, error in report.codec_errors.items())
            self.console.say(
                f"latent codec {self.plan.config.latent_codec}; error of the head's outputs: {errors} "
                f"(bound {OUTPUT_ERROR_BOUND:.0%})"
            )
        if store.codec.clip_rate is not None and report.rows < CALIBRATION_ROWS:
            self.console.say(
                f"warning: the grids of {store.codec.name} lie over {report.rows:,} rows only, and what is outside of "
                "them is clipped (replay/clip_rate): freeze later, give a larger --mem-budget, or float16"
            )
        parity = "" if report.onnx_max_abs_error is None else f", ONNX against torch {report.onnx_max_abs_error:.1e}"
        self.console.say(
            f"freeze at step {report.timestep:,}: {report.rows:,} rows carried over in {report.seconds:.2f} s, "
            f"capacity {store.capacity:,}, RSS {format_size(report.rss_before_bytes)} -> "
            f"{format_size(report.rss_after_bytes)} (peak {format_size(report.rss_peak_bytes)}){parity}"
        )

    def _evaluate(self, stop: Callable[[], bool]) -> Evaluation | None:
        """None where `stop` came first."""
        episodes = self.plan.config.eval_episodes
        evaluation = evaluate_session(
            self.plan,
            self.session,
            stop,
            lambda count: self.console.note(f"evaluation, {count} of {episodes} games"),
        )
        if evaluation is not None:
            self.outcome.evaluation, self.evaluated_at = evaluation, self.session.timestep
            self._write_summary()
            self.console.say(
                f"evaluation at step {self.session.timestep:,}: {len(evaluation.returns)} episodes, "
                f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}"
            )
        return evaluation

    def _log(self, evaluation: Evaluation | None) -> None:
        session, ledger = self.session, self.session.ledger
        observations, rss = ledger.held_bytes(Line.OBSERVATIONS), rss_bytes()
        mean_return, speed = self.interval.mean_return, self.interval.steps_per_second
        row = {
            "time/total_timesteps": session.timestep,
            **self.interval.drain(),
            "memory/observation_bytes": observations,
            "memory/workspace_bytes": ledger.held_bytes(Line.WORKSPACE),
            "memory/budget_bytes": self.plan.config.mem_budget_bytes,
            "memory/rss_bytes": rss,
            "replay/rows": session.replay.store.rows,
            "replay/capacity": session.replay.store.capacity,
            "seer/frozen": int(session.agent.frozen),
            "compute/flops": flops(session, self.outcome, session.timestep),
            "time/time_elapsed": time.monotonic() - self._begin,
        }
        clip_rate = session.replay.store.codec.clip_rate
        if clip_rate is not None:
            row["replay/clip_rate"] = clip_rate
        if evaluation is not None:
            row |= {"eval/mean_reward": evaluation.mean_return, "eval/std_reward": evaluation.std_return}
        self.logged_at = session.timestep
        for tracker in self.trackers:
            tracker.write(row)
        shown = "-" if mean_return is None else f"{mean_return:.1f}"
        self.console.status(
            session.timestep,
            f"{session.phase} {_figure(speed)} steps/s return {shown} "
            f"obs {observations / 1e6:.1f}/{self.plan.config.mem_budget_bytes / 1e6:.1f} MB rss {rss / 1e6:.0f} MB",
        )

    def describe(self) -> dict[str, Any]:
        """The whole of `summary.json`."""
        return summary(self.session, self.outcome, self.clock)

    def _write_summary(self) -> None:
        durable.write_json(self.folder.summary, self.describe())


def _figure(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def _failed(session: Session, reason: object) -> str:
    return f"the environment failed after step {session.timestep:,}: {reason}"


def train(plan: BytePlan, folder: RunFolder, taken: TakenEncoder | None = None) -> int:
    """Run the plan in `folder`, with an encoder that is `taken`; returns the exit status. Raises RunStoppedError."""

    def build(on_hang: OnHang) -> Run:
        console = Console(plan.config.total_timesteps, sys.stderr)
        if taken is None:
            return Run(folder, build_session(plan, None, on_hang), console, None)
        with checkpoint.reading(Path(plan.config.source or "")):
            session = build_session(plan, taken, on_hang)
        run = Run(folder, session, console, None)
        run.begin_frozen(taken)
        return run

    return _execute(folder, build)


def resume(plan: BytePlan, folder: RunFolder, saved: Saved) -> int:
    """Go on from a generation under `plan`; returns the exit status.

    Raises BadInputError where the generation is not one of this plan, RunStoppedError.
    """

    def build(on_hang: OnHang) -> Run:
        console = Console(plan.config.total_timesteps, sys.stderr, saved.timestep)
        with checkpoint.reading(saved.path), contextlib.ExitStack() as undo:
            session, notes = resume_session(plan, saved, on_hang)
            undo.callback(session.env.close)
            run = Run(folder, session, console, saved.run())
            json.dumps(run.describe(), allow_nan=False)  # what the run told of itself makes a summary
            undo.pop_all()
        if plan.config.mem_budget_bytes != saved.config.mem_budget_bytes:
            run.outcome.peaks.pop(OBSERVATIONS, None)  # that of another budget
        run.unsaved = plan.config != saved.config
        notes += [f"{line}: last bits may differ" for line in folder.other_versions()]
        console.say(f"goes on at step {saved.timestep:,} of {plan.config.total_timesteps:,}")
        for note in notes:
            console.say(f"note: {note}")
        for line in folder.mend(saved.config, session.graph):
            console.say(line)
        folder.write_config(plan.config)
        return run

    return _execute(folder, build)


def _execute(folder: RunFolder, build: Callable[[OnHang], Run]) -> int:
    runs: list[Run] = []  # none yet while its environment shows its first frame

    def on_hang(reason: str) -> None:
        for run in runs:
            run.abandon(reason)
        print(f"seer-edge: the environment failed: {reason}", file=sys.stderr, flush=True)
        os._exit(EXIT_UNSAFE)

    with StopSignal() as stop, contextlib.ExitStack() as closing:
        try:
            settle()  # most of what imports touched is not used again
            runs.append(build(on_hang))
            closing.callback(runs[0].session.env.close)
            return runs[0].execute(stop)
        except OSError as error:
            stands = runs[0].outcome.checkpoint if runs else None
            what = "there is no checkpoint yet" if stands is None else f"the checkpoint of step {stands:,} stands"
            raise RunStoppedError(
                f"{folder.path}: cannot be written any more ({error}); {what}: make room, then resume"
            ) from error
        except NothingToSampleError as error:
            raise RunStoppedError(f"{folder.path}: nothing to learn from ({error}); give more --mem-budget") from error
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise RunStoppedError(
                f"out of memory ({one_line(error)}); the last checkpoint stands; resume takes a smaller --mem-budget"
            ) from error
