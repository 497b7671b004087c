"""Evaluation: complete episodes, raw rewards, no parameter noise, epsilon-greedy with a small epsilon."""

import logging
import os
import sys
from collections.abc import Callable

from tqdm import tqdm

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.envs.games import Evaluation, evaluate, game_seeds
from seer_edge.errors import EXIT_UNSAFE, BadInputError, describe_error
from seer_edge.machine.signals import StopSignal
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.training.components import OnHang, new_perception, open_env
from seer_edge.training.session import Session
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import LatentPerception
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State

LOG = logging.getLogger(__name__)


def evaluate_session(
    plan: BytePlan, session: Session, stop: Callable[[], bool], played: Callable[[int], object]
) -> Evaluation | None:
    """Evaluate the session's agent in a new environment; the session does not change. None if `stop` came first."""
    encoder = session.perception.encoder if isinstance(session.perception, LatentPerception) else None
    return evaluate_agent(plan, session.agent, encoder, session.ledger, session.timestep, stop, played, session.on_hang)


def evaluate_agent(
    plan: BytePlan,
    agent: Agent,
    encoder: OnnxEncoder | None,
    ledger: Ledger,
    timestep: int,
    stop: Callable[[], bool],
    played: Callable[[int], object],
    on_hang: OnHang | None,
) -> Evaluation | None:
    """Play `eval_episodes` episodes in a new environment; None if `stop` came first.

    `encoder` is the frozen encoder if the agent reads latents. `played` is called with the number of finished episodes.
    Raises EnvironmentFailedError.
    """
    perception = new_perception(plan, encoder, ledger)
    env_seed, rng = game_seeds(plan.config.seed, timestep)
    env = open_env(plan, seed=env_seed, training=False, on_hang=on_hang)
    try:
        return evaluate(
            env,
            perception,
            lambda observed: agent.greedy(observed.input),
            episodes=plan.config.eval_episodes,
            epsilon=plan.config.settings.evaluation_epsilon,
            rng=rng,
            stop=stop,
            played=played,
        )
    finally:
        env.close()
        perception.release()
        ledger.release(Line.WORKSPACE, perception.stack.frames)


def _open_encoder(graph: bytes, plan: BytePlan, ledger: Ledger) -> OnnxEncoder:
    try:
        return OnnxEncoder(graph, threads=plan.config.threads, ledger=ledger, device=plan.config.device)
    except Exception as error:  # ONNX Runtime's exception types are not public
        raise BadInputError(f"encoder.onnx of the newest checkpoint: {describe_error(error)}") from error


def _give_up(reason: str) -> None:
    LOG.critical("seer-edge eval: the environment failed: %s", reason)
    os._exit(EXIT_UNSAFE)


def evaluate_run(
    plan: BytePlan, saved: Saved, state: State, *, progress_bar: bool = False
) -> tuple[Evaluation | None, int | None]:
    """Evaluate the agent of a checkpoint, whose `state` is given.

    Returns the evaluation and None, or None and the number of the signal that stopped it. Raises BadInputError if the
    checkpoint is not one of this version.
    """
    agent = make_agent(plan, seed=0)
    ledger, encoder = Ledger({}), None
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    if saved.graph is not None:
        encoder = _open_encoder(saved.graph, plan, ledger)
    with checkpoint.reading(saved.path):
        agent.restore(state)
    progress = tqdm(total=plan.config.eval_episodes, unit="game", disable=not (progress_bar and sys.stderr.isatty()))
    with progress, StopSignal() as stop:
        evaluation = evaluate_agent(
            plan,
            agent,
            encoder,
            ledger,
            saved.timestep,
            stop,
            lambda count: progress.update(count - progress.n),
            _give_up,
        )
    return evaluation, None if evaluation is not None else stop.received
