"""`summary.json`: the results of a run so far."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seer_edge.envs.games import Evaluation
from seer_edge.training.freeze import FreezeReport
from seer_edge.training.metrics import PhaseClock
from seer_edge.training.session import Session
from seer_runtime.system.ledger import Line
from seer_runtime.system.process import anon_bytes, rss_peak_bytes

OBSERVATIONS = "observations"
ANON = "anon"
RUNNING = "running"


@dataclass(frozen=True)
class Best:
    """The step and the mean return of the best evaluation."""

    timestep: int
    mean_return: float


@dataclass
class Outcome:
    """The results in `summary.json` that are not in the plan; filled in as the run proceeds."""

    status: str = RUNNING
    freeze: FreezeReport | None = None
    freeze_refused: str | None = None
    evaluation: Evaluation | None = None
    best: Best | None = None
    resumed_at: list[int] = field(default_factory=list)
    checkpoint: int | None = None  # step of the newest checkpoint
    peaks: dict[str, int] = field(default_factory=dict)  # bytes, of earlier processes of the run and earlier samples

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint, without the status, which belongs to the process."""
        return {
            "freeze": None if self.freeze is None else self.freeze.to_json(),
            "freeze_refused": self.freeze_refused,
            "evaluation": None if self.evaluation is None else list(self.evaluation.returns),
            "best": None if self.best is None else [self.best.timestep, self.best.mean_return],
            "resumed_at": self.resumed_at,
            "peaks": self.peaks,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Outcome":
        """Restore what `state` returned. Raises KeyError, TypeError or ValueError if it is malformed."""
        freeze, returns = state["freeze"], state["evaluation"]
        best = state.get("best")  # missing in runs of earlier versions
        return cls(
            freeze=None if freeze is None else FreezeReport(**freeze),
            freeze_refused=state["freeze_refused"],
            evaluation=None if returns is None else Evaluation(tuple(map(float, returns))),
            best=None if best is None else Best(int(best[0]), float(best[1])),
            resumed_at=[int(step) for step in state["resumed_at"]],
            peaks={name: int(peak) for name, peak in state["peaks"].items()},
        )

    def sample_anon(self) -> int:
        """Return the anonymous memory now, in bytes. `measure` takes it into account for the peak."""
        now = anon_bytes()
        self.peaks[ANON] = max(now, self.peaks.get(ANON, 0))
        return now

    def measure(self, session: Session) -> dict[str, int]:
        """Return the peaks in bytes over all processes of the run. That of observations is under the current budget.

        The kernel keeps no peak of the anonymous memory. Its peak is that of the samples: one now, one at each earlier
        log interval and measurement, and those of the freeze.
        """
        ledger = session.ledger
        self.sample_anon()
        now = {
            OBSERVATIONS: ledger.peak_bytes(Line.OBSERVATIONS),
            "workspace": ledger.peak_bytes(Line.WORKSPACE),
            # The kernel's peak lags behind the samples that the freeze took.
            "rss": max(rss_peak_bytes(), 0 if self.freeze is None else self.freeze.rss_peak_bytes),
            ANON: 0 if self.freeze is None else self.freeze.anon_peak_bytes or 0,
        }
        return {name: max(peak, self.peaks.get(name, 0)) for name, peak in now.items()}


def status_of(session: Session, outcome: Outcome) -> str:
    """Return the status of the run: "paused" while it is running and its control is paused."""
    return "paused" if outcome.status == RUNNING and session.is_paused else outcome.status


def summary(session: Session, outcome: Outcome, clock: PhaseClock) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    plan, frozen, peaks = session.plan, outcome.freeze, outcome.measure(session)
    return {
        "env": plan.env.id,
        "algo": plan.config.algo,
        "seed": plan.config.seed,
        "origin": plan.config.origin,
        "timesteps": session.timestep,
        "status": status_of(session, outcome),
        "budget": {
            "limit_bytes": plan.config.mem_budget_bytes,
            "observation_bytes_peak": peaks[OBSERVATIONS],
            "workspace_bytes_peak": peaks["workspace"],
        },
        "replay": {
            "store": plan.config.store,
            "frame_capacity": plan.frame_capacity,
            "latent_capacity": plan.latent_capacity if plan.latent_replay else None,
            "latent_codec": plan.config.latent_codec if plan.latent_replay else None,
            "frame_row_bytes": plan.frame_row_bytes,
            "latent_row_bytes": plan.latent_row_bytes if plan.latent_replay else None,
            "rows": session.replay.store.rows,
            "bytes_a_row": session.replay.store.bytes_a_row,
            "clip_rate": session.replay.store.codec.clip_rate,
        },
        "freeze": None if frozen is None else frozen.to_json(),
        "freeze_refused": outcome.freeze_refused,
        "checkpoint": outcome.checkpoint,
        "resumed_at": outcome.resumed_at,
        "rss_peak_bytes": peaks["rss"],
        "anon_peak_bytes": peaks[ANON],
        "steps_per_second": {phase: clock.steps_per_second(phase) for phase in ("pixel", "latent")},
        **({} if (real_time := session.summary_figures()) is None else {"real_time": real_time}),
        "flops": {
            "total": flops(session, outcome, session.timestep),
            "at_freeze": None if frozen is None else flops(session, outcome, frozen.timestep),
        },
        "eval": None if outcome.evaluation is None else outcome.evaluation.to_json(),
        "best": None if outcome.best is None else dataclasses.asdict(outcome.best),
    }


def flops(session: Session, outcome: Outcome, timestep: int) -> int:
    """Return the multiply-adds up to `timestep` (Appendix C)."""
    frozen_at = outcome.freeze.timestep if outcome.freeze else None
    return session.plan.flops.total(timestep, frozen_at)
