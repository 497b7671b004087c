"""Everything that a run reports: console lines, the tables, the trackers and `summary.json`."""

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

from seer_edge.envs.games import Evaluation
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.transfer import Imported
from seer_edge.training.codec_choice import CALIBRATION_ROWS, OUTPUT_ERROR_BOUND
from seer_edge.training.freeze import FreezeRefusedError, FreezeReport
from seer_edge.training.freeze_watch import Comparison
from seer_edge.training.metrics import Console, Interval, PhaseClock
from seer_edge.training.session import Session, StepReport
from seer_edge.training.summary import Best, Outcome, flops, status_of, summary
from seer_edge.training.tables import changed_tables, episode_row, open_tables
from seer_edge.training.trackers import Tracker, open_trackers
from seer_runtime import durable
from seer_runtime.replay.block_index import room_bytes
from seer_runtime.system.ledger import Line
from seer_runtime.system.process import rss_bytes
from seer_runtime.system.units import counted, format_size

CONVERSION_LINES_SECONDS = 5.0
"""Seconds between two messages of a conversion that takes long."""
LARGE_LOSS = 1e6
"""A mean loss at which learning has probably failed. Rewards of about 1 a step give losses below 1,000."""


class Reporter:
    """Records what a run does and reports it.

    A checkpoint stores `state()`, so that a resumed run continues the record.

    Attributes:
        outcome: the results so far, for `summary.json`.
        trackers: receive the figures of each log interval.
        logged_at: the step of the last log interval.
        evaluated_at: the step of the last evaluation.

    """

    def __init__(self, folder: RunFolder, session: Session, console: Console, state: Mapping[str, Any] | None) -> None:
        """Continue the record of an earlier process from its `state()`; None begins a new record.

        Raises KeyError, TypeError or ValueError if `state` is malformed.
        """
        self.console = console
        self.outcome, self.interval = Outcome(), Interval()
        self.logged_at = self.evaluated_at = 0
        self._folder = folder
        self._session = session
        self._clock = PhaseClock()
        self._begin, self._cpu_before = time.monotonic(), -time.process_time()
        self._warned_of_loss = False
        self._conversion_shown = 0.0
        self._written_status: str | None = None
        if state is not None:
            self.outcome = Outcome.of(state["outcome"])
            self.outcome.resumed_at.append(session.timestep)
            self.outcome.checkpoint = session.timestep
            self._clock.restore(state["clock"])
            self.interval.restore(state["interval"])
            self.logged_at, self.evaluated_at = int(state["logged_at"]), int(state["evaluated_at"])
            self._begin -= float(state["seconds"])
            # Checkpoints of earlier versions lack it. Unknown seconds leave the cells empty.
            self._cpu_before += float(state.get("cpu_seconds", math.nan))
        self._tables = open_tables(folder, self.logged_at, session.timestep, real_time=session.config.hz is not None)
        for warning in [] if state is None else changed_tables(self._tables, state):
            console.warn(warning)
        self.trackers: list[Tracker] = [
            self._tables["progress"],
            *open_trackers(folder, session.config, self.logged_at, self.describe, lambda: self.status, console),
        ]

    def state(self) -> dict[str, Any]:
        """Return what a later process needs to continue the record: the content of a checkpoint's `run.json`."""
        return {
            "outcome": {**self.outcome.state(), "peaks": self.outcome.measure(self._session)},
            "clock": self._clock.state(),
            "interval": self.interval.state(),
            "logged_at": self.logged_at,
            **{name: table.digest for name, table in self._tables.items()},
            "evaluated_at": self.evaluated_at,
            "seconds": time.monotonic() - self._begin,
            **({} if math.isnan(self._cpu_seconds) else {"cpu_seconds": self._cpu_seconds}),
        }

    def sync(self) -> None:
        """Force the tables to the disk. Raises OSError."""
        for tracker in (*self.trackers, self._tables["episodes"]):
            tracker.sync()

    def close(self) -> None:
        """Write the summary and close everything; a disk that fails now is only reported."""
        try:
            self.write_summary()
        except OSError as error:
            self.console.warn(f"{self._folder.summary} could not be updated at the end ({error})")
        for tracker in (*self.trackers, self._tables["episodes"]):
            with contextlib.suppress(OSError):
                tracker.close()
        self.console.close()

    def describe(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        return summary(self._session, self.outcome, self._clock)

    @property
    def status(self) -> str:
        """The status of the run now. Any thread may read it."""
        return status_of(self._session, self.outcome)

    def write_summary(self) -> None:
        """Write `summary.json`. Raises OSError."""
        described = self.describe()
        durable.write_json(self._folder.summary, described)
        self._written_status = described["status"]

    def follow_status(self) -> None:
        """Write `summary.json` if the status is another one now, for example in a pause. Raises OSError."""
        if self.status != self._written_status:
            self.write_summary()

    # --- events --------------------------------------------------------------------------------------------

    def stepped(self, report: StepReport) -> None:
        """Record one step."""
        session = self._session
        self._clock.add(session.phase, report)
        self.interval.add(session.timestep, report)
        if report.episode is not None:
            self._tables["episodes"].write(episode_row(session.timestep, report.episode, session.agent.updates))
        self.console.advance(session.timestep)

    def imported(self, imported: Imported) -> None:
        """Report the import of a run that starts frozen: its freeze is at step 0 and converts nothing."""
        session, rss = self._session, rss_bytes()
        anon = self.outcome.sample_anon()
        self.outcome.freeze = FreezeReport(0, 0, 0.0, rss, rss, rss, None, anon_peak_bytes=anon)
        self.console.say(
            f"encoder of {session.config.source}, step {imported.timestep:,}, frozen from the start; "
            f"{self._room()} {'latents' if session.graph else 'frames'}"
        )
        for note in imported.notes:
            self.console.say(note)

    def converting(self, done: int, total: int) -> None:
        """Show how many rows are converted, every few seconds."""
        now = time.monotonic()
        if done < total and now - self._conversion_shown < CONVERSION_LINES_SECONDS:
            return
        if self._conversion_shown and done < total:
            self.console.say(f"freeze: {done:,} of {total:,} rows are converted")
        self.console.note(f"freeze, {done:,} of {total:,} rows")
        self._conversion_shown = now

    def freeze_refused(self, refusal: FreezeRefusedError) -> None:
        """Report a refused freeze."""
        self.outcome.freeze_refused = str(refusal)
        self.console.warn(f"{refusal}; the run continues on frames")

    def compared(self, comparison: Comparison) -> None:
        """Report a comparison of --freeze-at auto."""
        self.console.say(
            f"at step {comparison.step:,}, against one window before: similarity of the encoder "
            f"{comparison.similarity:.3f}, drift of the head {comparison.drift:.3f}"
        )

    def unsettled(self) -> None:
        """Warn that --freeze-at auto freezes at its latest step, though the networks are not flat."""
        self.console.warn(
            f"--freeze-at auto: similarity or drift was not flat by step {self._session.timestep:,}, the latest at "
            "which it freezes: return may be lost; a larger --total-timesteps allows a later freeze"
        )

    def frozen(self, report: FreezeReport) -> None:
        """Report the freeze."""
        self.outcome.freeze = report
        store = self._session.replay.store
        if report.codec_errors is not None:
            errors = ", ".join(f"{name} {error:.2%}" for name, error in report.codec_errors.items())
            self.console.say(
                f"latent codec {self._session.config.latent_codec}; error of the head's outputs: {errors} "
                f"(bound {OUTPUT_ERROR_BOUND:.0%})"
            )
        if store.codec.clip_rate is not None and report.rows < CALIBRATION_ROWS:
            budget = "give a larger --mem-budget, " if report.rows < report.timestep else ""
            self.console.warn(
                f"the quantization ranges of {store.codec.name} are calibrated on {report.rows:,} rows only; values "
                f"outside them are clipped (replay/clip_rate): freeze later, {budget}or use float16"
            )
        parity = "" if report.onnx_max_abs_error is None else f", ONNX against torch {report.onnx_max_abs_error:.1e}"
        self.console.say(
            f"freeze at step {report.timestep:,}: {report.rows:,} rows kept in {report.seconds:.2f} s, "
            f"{self._room()}, RSS {format_size(report.rss_before_bytes)} -> "
            f"{format_size(report.rss_after_bytes)} (peak {format_size(report.rss_peak_bytes)}){parity}"
        )

    @property
    def _cpu_seconds(self) -> float:
        """CPU time of all threads of the run's processes so far; NaN if an earlier one did not record it."""
        return self._cpu_before + time.process_time()

    def _rows(self) -> str:
        """Return the rows held and their size with --store compact, where no table of the plan says it."""
        store = self._session.replay.store
        if not self._session.config.compact or store.bytes_a_row is None:
            return ""
        return f"{store.rows:,} rows at {store.bytes_a_row:,.0f} B "

    def _room(self) -> str:
        """Return how many rows fit."""
        plan, store = self._session.plan, self._session.replay.store
        if not plan.config.compact:
            return f"capacity {store.capacity:,}"
        if store.bytes_a_row is None:
            return f"capacity up to {plan.row_limit:,}"
        return f"{store.bytes_a_row:,.0f} B a row, capacity about {self._capacity():,}"

    def _capacity(self) -> int:
        """Return how many rows fit, with --store compact at their present mean size."""
        plan, store = self._session.plan, self._session.replay.store
        if not plan.config.compact or store.bytes_a_row is None:
            return plan.row_limit or store.capacity
        room = room_bytes(plan.arena_bytes, store.codec.row_bytes)
        return max(store.rows, min(plan.row_limit, int(room / store.bytes_a_row)))

    @property
    def is_complete(self) -> bool:
        """Whether the run has reached its last step, or the return at which it ends."""
        evaluation = self.outcome.evaluation
        mean = None if evaluation is None else evaluation.mean_return
        return self._session.config.is_complete(self._session.timestep, self.evaluated_at, mean)

    def evaluated(self, evaluation: Evaluation) -> bool:
        """Report an evaluation and update `summary.json`; return whether it is the best so far. Raises OSError."""
        self.outcome.evaluation, self.evaluated_at = evaluation, self._session.timestep
        is_best = self.outcome.best is None or evaluation.mean_return > self.outcome.best.mean_return
        if is_best:
            self.outcome.best = Best(self.evaluated_at, evaluation.mean_return)
        self.write_summary()
        self.console.say(
            f"evaluation at step {self.evaluated_at:,}: {counted(len(evaluation.returns), 'episode')}, "
            f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}"
        )
        if self.is_complete and self.evaluated_at < self._session.config.total_timesteps:
            self.console.say(f"reached --stop-at-return {self._session.config.stop_at_return:g}; the run ends here")
        return is_best

    def log(self, evaluation: Evaluation | None, comparison: Comparison | None = None) -> None:
        """End a log interval: pass its figures to the trackers and show them. Raises OSError."""
        session, ledger = self._session, self._session.ledger
        observations, rss, anon = ledger.held_bytes(Line.OBSERVATIONS), rss_bytes(), self.outcome.sample_anon()
        mean_return = self.interval.mean_return
        row = {
            "time/total_timesteps": session.timestep,
            **self.interval.drain(),
            "memory/observation_bytes": observations,
            "memory/workspace_bytes": ledger.held_bytes(Line.WORKSPACE),
            "memory/budget_bytes": session.config.mem_budget_bytes,
            "memory/rss_bytes": rss,
            "memory/anon_bytes": anon,
            "replay/rows": session.replay.store.rows,
            "replay/capacity": self._capacity(),
            "seer/frozen": int(session.agent.frozen),
            "compute/flops": flops(session, self.outcome, session.timestep),
            "time/time_elapsed": time.monotonic() - self._begin,
        }
        if not math.isnan(self._cpu_seconds):
            row["time/cpu_seconds"] = self._cpu_seconds
        clip_rate = session.replay.store.codec.clip_rate
        if clip_rate is not None:
            row["replay/clip_rate"] = clip_rate
        if evaluation is not None:
            row |= {"eval/mean_reward": evaluation.mean_return, "eval/std_reward": evaluation.std_return}
            row["eval/mean_ep_length"] = evaluation.mean_length
        if comparison is not None:
            row |= {"seer/similarity": comparison.similarity, "seer/drift": comparison.drift}
        row |= session.interval_figures()
        self.logged_at = session.timestep
        self._watch_loss(row.get("train/loss"))
        for tracker in self.trackers:
            tracker.write(row)
        shown = "-" if mean_return is None else f"{mean_return:.1f}"
        self.console.status(
            session.timestep,
            f"{session.phase} {_format_speed(row.get('time/fps'))} steps/s return {shown} "
            f"obs {observations / 1e6:.1f}/{session.config.mem_budget_bytes / 1e6:.1f} MB {self._rows()}"
            f"rss {rss / 1e6:.0f} MB anon {anon / 1e6:.0f} MB{_control(row)}",
        )

    def _watch_loss(self, loss: float | None) -> None:
        """Warn once of a loss that comes of rewards far too large."""
        if loss is None or abs(loss) < LARGE_LOSS or self._warned_of_loss:
            return
        self._warned_of_loss = True
        clip = self._session.config.settings.reward_clip
        hint = (
            "lower --set learning_rate"
            if clip is not None
            else "scale the rewards to about 1 a step, or --set reward_clip=1"
        )
        self.console.warn(
            f"the loss is {loss:.1e} at step {self._session.timestep:,}, so the agent probably learns nothing; {hint}"
        )


def _control(row: Mapping[str, float]) -> str:
    """Return the figures of control in real time for the console."""
    if "control/ticks" not in row:
        return ""
    return (
        f" late {row['control/late_p99_ms']:.1f} ms (p99) {row['control/late_worst_ms']:.1f} ms (worst) "
        f"missed {row['control/missed']:,} updates {row['control/updates_per_step']:.2f}/step"
    )


def _format_speed(speed: float | None) -> str:
    if speed is None:  # no step since the last row
        return "-"
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
