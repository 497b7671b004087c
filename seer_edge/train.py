"""The main job: train, freeze on the way, evaluate, and say what happens."""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seer_edge import checkpoint
from seer_edge.errors import EnvironmentFailedError, RunStoppedError
from seer_edge.evaluate import Evaluation, evaluate_session
from seer_edge.freeze import FreezeRefusedError, FreezeReport, freeze
from seer_edge.host import StopSignal
from seer_edge.loop import Session, build_session
from seer_edge.metrics import Console, Interval, PhaseClock, ProgressFile, TensorBoard, Tracker
from seer_edge.plan import BytePlan
from seer_edge.run_folder import RunFolder
from seer_edge.transfer import TakenEncoder
from seer_runtime import durable
from seer_runtime.ledger import Line
from seer_runtime.process import rss_bytes, rss_peak_bytes
from seer_runtime.units import format_size


@dataclass
class Outcome:
    """What `summary.json` says beside the plan; filled in as the run goes."""

    status: str = "running"
    freeze: FreezeReport | None = None
    freeze_refused: str | None = None
    evaluation: Evaluation | None = None


class Run:
    """One run from its first step to its exit status."""

    def __init__(self, plan: BytePlan, folder: RunFolder, session: Session, console: Console) -> None:
        self.plan = plan
        self.folder = folder
        self.session = session
        self.console = console
        self.outcome = Outcome()
        self._begin = time.monotonic()
        self.clock = PhaseClock()
        self.interval = Interval()
        self.trackers: list[Tracker] = [ProgressFile(folder.progress)]
        if plan.config.tensorboard:
            self.trackers.append(TensorBoard(folder.tensorboard))

    def execute(self, stop: StopSignal) -> int:
        """Train to the end, or until `stop`; returns the exit status."""
        try:
            self._write_summary()
            self._train(stop)
            if self.interval.steps:
                self._log(None)
            path = checkpoint.save(self.session, self.folder.checkpoints)
            if stop():
                self.console.say(f"stopped at step {self.session.timestep:,}; wrote {path}")
            self.outcome.status = "interrupted" if stop() else "finished"
        except BaseException as error:
            self.outcome.status = "failed"
            if isinstance(error, EnvironmentFailedError | OSError):
                self._rescue()
            raise
        finally:
            # On a full disk the error that is under way says more than this one would.
            with contextlib.suppress(OSError):
                self._write_summary()
            for tracker in self.trackers:
                tracker.close()
            self.console.close()
        return 0 if stop.received is None else 128 + stop.received

    def _train(self, stop: StopSignal) -> None:
        config, session = self.plan.config, self.session
        while session.timestep < config.total_timesteps and not stop():
            report = session.step()
            self.clock.add(session.phase, report)
            self.interval.add(report)
            self.console.advance(session.timestep)
            timestep = session.timestep
            freezing = timestep == config.freeze_at
            evaluating = timestep == config.total_timesteps or timestep % config.eval_every == 0
            if freezing:
                self._freeze()
            evaluation = self._evaluate(stop) if evaluating else None
            if freezing or evaluating or timestep % config.log_every == 0:
                self._log(evaluation)

    def _rescue(self) -> None:
        """The agent and the replay are sound, so the steps since the last generation need not be lost."""
        with contextlib.suppress(OSError):
            path = checkpoint.save(self.session, self.folder.checkpoints)
            self.console.say(f"wrote {path}")

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

    def _freeze(self) -> None:
        try:
            report = freeze(self.session, self.folder.encoder, self.folder.checkpoints)
        except FreezeRefusedError as refusal:
            self.outcome.freeze_refused = str(refusal)
            self.console.say(f"{refusal}; the run goes on from pixels")
            return
        self.outcome.freeze = report
        store = self.session.replay.store
        parity = "" if report.onnx_max_abs_error is None else f", ONNX against torch {report.onnx_max_abs_error:.1e}"
        self.console.say(
            f"freeze at step {report.timestep:,}: {report.rows:,} rows carried over in {report.seconds:.2f} s, "
            f"capacity {store.capacity:,}, RSS {format_size(report.rss_before_bytes)} -> "
            f"{format_size(report.rss_after_bytes)} (peak {format_size(report.rss_peak_bytes)}){parity}"
        )

    def _evaluate(self, stop: Callable[[], bool]) -> Evaluation | None:
        episodes = self.plan.config.eval_episodes
        evaluation = evaluate_session(
            self.plan,
            self.session,
            stop,
            lambda count: self.console.note(f"evaluation, {count} of {episodes} games"),
        )
        if evaluation is not None:
            self.outcome.evaluation = evaluation
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
            "compute/flops": self._flops(session.timestep),
            "time/time_elapsed": time.monotonic() - self._begin,
        }
        if evaluation is not None:
            row |= {"eval/mean_reward": evaluation.mean_return, "eval/std_reward": evaluation.std_return}
        for tracker in self.trackers:
            tracker.write(row)
        shown = "-" if mean_return is None else f"{mean_return:.1f}"
        self.console.status(
            session.timestep,
            f"{session.phase} {_figure(speed)} steps/s return {shown} "
            f"obs {observations / 1e6:.1f}/{self.plan.config.mem_budget_bytes / 1e6:.1f} MB rss {rss / 1e6:.0f} MB",
        )

    def _flops(self, timestep: int) -> int:
        frozen_at = self.outcome.freeze.timestep if self.outcome.freeze else None
        return self.plan.flops.total(timestep, frozen_at)

    def _write_summary(self) -> None:
        durable.write_json(self.folder.summary, self.summary())

    def summary(self) -> dict[str, Any]:
        """`summary.json` (design, section 6)."""
        plan, session, outcome = self.plan, self.session, self.outcome
        ledger, frozen = session.ledger, outcome.freeze
        return {
            "env": plan.env.id,
            "algo": plan.config.algo,
            "seed": plan.config.seed,
            "timesteps": session.timestep,
            "status": outcome.status,
            "budget": {
                "limit_bytes": plan.config.mem_budget_bytes,
                "observation_bytes_peak": ledger.peak_bytes(Line.OBSERVATIONS),
                "workspace_bytes_peak": ledger.peak_bytes(Line.WORKSPACE),
            },
            "replay": {
                "frame_capacity": plan.frame_capacity,
                "latent_capacity": plan.latent_capacity if plan.latent_replay else None,
                "latent_codec": plan.config.latent_codec if plan.latent_replay else None,
                "frame_row_bytes": plan.frame_row_bytes,
                "latent_row_bytes": plan.latent_row_bytes if plan.latent_replay else None,
                "rows": session.replay.store.rows,
            },
            "freeze": None if frozen is None else frozen.to_json(),
            "freeze_refused": outcome.freeze_refused,
            "rss_peak_bytes": rss_peak_bytes(),
            "steps_per_second": {phase: self.clock.steps_per_second(phase) for phase in ("pixel", "latent")},
            "flops": {
                "total": self._flops(session.timestep),
                "at_freeze": None if frozen is None else self._flops(frozen.timestep),
            },
            "eval": None if outcome.evaluation is None else outcome.evaluation.to_json(),
        }


def _figure(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def train(plan: BytePlan, folder: RunFolder, taken: TakenEncoder | None = None) -> int:
    """Run the plan in `folder`, with an encoder that is `taken`; returns the exit status. Raises RunStoppedError."""
    console = Console(plan.config.total_timesteps, sys.stderr)
    with StopSignal() as stop:
        session = build_session(plan, taken)
        try:
            run = Run(plan, folder, session, console)
            if taken is not None:
                run.begin_frozen(taken)
            return run.execute(stop)
        except EnvironmentFailedError as error:
            raise RunStoppedError(f"the environment failed after step {session.timestep:,}: {error}") from error
        except OSError as error:
            raise RunStoppedError(f"{folder.path}: cannot be written any more ({error})") from error
        finally:
            session.env.close()
