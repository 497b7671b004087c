"""The main job: train, freeze on the way, evaluate, and say what happens."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch

from seer_edge import checkpoint
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.config import TrainConfig
from seer_edge.envs import make_env
from seer_edge.errors import BadInputError, RunStoppedError
from seer_edge.evaluate import Evaluation, evaluate
from seer_edge.freeze import FreezeRefusedError, FreezeReport, freeze
from seer_edge.loop import Session, build_session, new_stack
from seer_edge.metrics import Console, Interval, PhaseClock, ProgressFile
from seer_edge.plan import BytePlan
from seer_edge.run_folder import RunFolder
from seer_runtime import durable
from seer_runtime.encoder import OnnxEncoder
from seer_runtime.ledger import Ledger, Line
from seer_runtime.perception import FramePerception, LatentPerception, Perception
from seer_runtime.process import rss_bytes, rss_peak_bytes
from seer_runtime.units import format_size


def prepare_compute(config: TrainConfig) -> None:
    """Bound the threads of this process and check the device. Raises BadInputError for a device that is not there."""
    import cv2

    torch.set_num_threads(config.threads)
    cv2.setNumThreads(config.threads)
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise BadInputError(f"--device {config.device}: not a device; give cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInputError(f"--device {config.device}: not supported; give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError(f"--device {config.device}: torch {torch.__version__} finds no CUDA device; give cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInputError(f"--device {config.device}: there are {torch.cuda.device_count()}; give a smaller index")


class StopSignal:
    """SIGTERM and Ctrl-C ask the run to stop after the step it is in; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *unused: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.received is not None


@dataclass
class Outcome:
    """What `summary.json` says beside the plan; filled in as the run goes."""

    status: str = "running"
    freeze: FreezeReport | None = None
    evaluation: Evaluation | None = None


class Run:
    """One run from its first step to its exit status."""

    def __init__(self, plan: BytePlan, folder: RunFolder, session: Session, console: Console) -> None:
        self.plan = plan
        self.folder = folder
        self.session = session
        self.console = console
        self.outcome = Outcome()
        self.clock = PhaseClock()
        self.interval = Interval()
        self.progress = ProgressFile(folder.progress)

    def execute(self, stop: StopSignal) -> int:
        """Train to the end, or until `stop`; returns the exit status. Raises RunStoppedError."""
        try:
            self._train(stop)
            if not stop() and self.outcome.evaluation is None:
                self._evaluate(stop)
            self._checkpoint()
            self.outcome.status = "interrupted" if stop() else "finished"
        except BaseException:
            self.outcome.status = "failed"
            raise
        finally:
            self._write_summary()
            self.progress.close()
            self.console.close()
        return 0 if stop.received is None else 128 + stop.received

    def _train(self, stop: StopSignal) -> None:
        config, session = self.plan.config, self.session
        while session.timestep < config.total_timesteps and not stop():
            report = session.step()
            self.clock.add(session.phase, report)
            self.interval.add(report)
            self.console.advance(session.timestep)
            if session.timestep == config.freeze_at:
                self._freeze()
            at_end = session.timestep == config.total_timesteps
            evaluated = None
            if at_end or session.timestep % config.eval_every == 0:
                evaluated = self._evaluate(stop)
            if at_end or evaluated or session.timestep % config.log_every == 0:
                self._log(evaluated)

    # --- what happens now and then -------------------------------------------------------------------------

    def _freeze(self) -> None:
        try:
            report = freeze(self.session, self.folder.encoder, self.folder.checkpoints)
        except FreezeRefusedError as refusal:
            self.console.say(f"{refusal}; the run goes on from pixels")
            return
        self.outcome.freeze = report
        store = self.session.replay.store
        self.console.say(
            f"freeze at step {report.timestep:,}: {report.rows:,} rows carried over in {report.seconds:.2f} s, "
            f"capacity {store.capacity:,}, RSS {format_size(report.rss_before_bytes)} -> "
            f"{format_size(report.rss_after_bytes)} (peak {format_size(report.rss_peak_bytes)}), "
            f"ONNX against torch {report.onnx_max_abs_error:.1e}"
        )

    def _evaluate(self, stop: Callable[[], bool]) -> Evaluation | None:
        evaluation = evaluate_session(self.plan, self.session, stop)
        if evaluation is not None:
            self.outcome.evaluation = evaluation
            self._write_summary()
            self.console.say(
                f"evaluation at step {self.session.timestep:,}: {len(evaluation.returns)} episodes, "
                f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}"
            )
        return evaluation

    def _checkpoint(self) -> None:
        try:
            checkpoint.save(self.session, self.folder.checkpoints)
        except OSError as error:
            raise RunStoppedError(f"the checkpoint at step {self.session.timestep} failed: {error}") from error

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
        }
        if evaluation is not None:
            row |= {"eval/mean_reward": evaluation.mean_return, "eval/std_reward": evaluation.std_return}
        self.progress.write(row)
        shown = "-" if mean_return is None else f"{mean_return:.1f}"
        self.console.status(
            session.timestep,
            f"{session.phase}  {speed:.0f} steps/s  return {shown}  "
            f"obs {observations / 1e6:.1f}/{self.plan.config.mem_budget_bytes / 1e6:.1f} MB  rss {format_size(rss)}",
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
                "latent_capacity": plan.latent_capacity,
                "latent_codec": plan.config.latent_codec,
                "frame_row_bytes": plan.frame_row_bytes,
                "latent_row_bytes": plan.latent_row_bytes,
                "rows": session.replay.store.rows,
            },
            "freeze": None if frozen is None else frozen.to_json(),
            "rss_peak_bytes": rss_peak_bytes(),
            "steps_per_second": {phase: self.clock.steps_per_second(phase) for phase in ("pixel", "latent")},
            "flops": {
                "total": self._flops(session.timestep),
                "at_freeze": None if frozen is None else self._flops(frozen.timestep),
            },
            "eval": None if outcome.evaluation is None else outcome.evaluation.to_json(),
        }


def evaluate_session(plan: BytePlan, session: Session, stop: Callable[[], bool]) -> Evaluation | None:
    """Evaluate the agent as it stands, with a stack of its own."""
    encoder = session.perception.encoder if isinstance(session.perception, LatentPerception) else None
    return evaluate_agent(plan, session.agent, encoder, session.ledger, session.timestep, stop)


def evaluate_agent(
    plan: BytePlan,
    agent: RainbowAgent,
    encoder: OnnxEncoder | None,
    ledger: Ledger,
    timestep: int,
    stop: Callable[[], bool],
) -> Evaluation | None:
    """Play `eval_episodes` games in an environment of their own; `encoder` is the frozen one, if there is one."""
    stack = new_stack(plan, ledger)
    perception: Perception = FramePerception(stack) if encoder is None else LatentPerception(stack, encoder)
    seeds = np.random.SeedSequence((plan.config.seed, timestep)).generate_state(2)
    env = make_env(plan.config.env, protocol=plan.config.protocol, seed=int(seeds[0]), training=False)
    try:
        return evaluate(
            env,
            perception,
            lambda observed: agent.greedy(observed.input),
            episodes=plan.config.eval_episodes,
            epsilon=plan.config.rainbow.evaluation_epsilon,
            rng=np.random.default_rng(int(seeds[1])),
            stop=stop,
        )
    finally:
        env.close()
        ledger.release(Line.WORKSPACE, stack.frames)


def evaluate_run(plan: BytePlan, folder: RunFolder) -> int:
    """Evaluate a run's newest sound generation and print the returns; returns the exit status."""
    generation = checkpoint.read_agent(folder.checkpoints)
    for line in generation.skipped:
        print(line, file=sys.stderr)
    agent = RainbowAgent(plan.encoder, plan.head, plan.config.rainbow, seed=0, device=plan.config.device)
    ledger, encoder = Ledger({}), None
    if generation.graph is not None:
        agent.freeze_encoder()
        encoder = OnnxEncoder(generation.graph, threads=plan.config.threads, ledger=ledger)
    agent.load_arrays(generation.arrays)
    with StopSignal() as stop:
        evaluation = evaluate_agent(plan, agent, encoder, ledger, generation.timestep, stop)
    if evaluation is None:
        return 128 + (stop.received or 0)
    returns = " ".join(f"{value:g}" for value in evaluation.returns)
    print(f"{plan.env.id}, step {generation.timestep:,}, {len(evaluation.returns)} episodes")
    print(f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}: {returns}")
    return 0


def train(plan: BytePlan, folder: RunFolder) -> int:
    """Run the plan in `folder`; returns the exit status."""
    console = Console(plan.config.total_timesteps, sys.stderr)
    with StopSignal() as stop:
        session = build_session(plan)
        try:
            return Run(plan, folder, session, console).execute(stop)
        finally:
            session.env.close()
