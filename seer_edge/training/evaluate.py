"""Evaluation: complete episodes, raw rewards, no parameter noise, epsilon-greedy with a small epsilon."""

import logging
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.config.plan_text import evaluation_cost
from seer_edge.config.real_time import limits_asked
from seer_edge.envs.environment import Playable
from seer_edge.envs.games import Evaluation, evaluate, game_seeds
from seer_edge.envs.guarded import ending
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.recorder import Recorder
from seer_edge.errors import BadInputError, describe_error
from seer_edge.machine.signals import StopSignal
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.training.components import new_perception, open_env
from seer_edge.training.session import Session
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import LatentPerception
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State

LOG = logging.getLogger(__name__)


def evaluate_session(
    plan: BytePlan,
    session: Session,
    stop: Callable[[], bool],
    played: Callable[[int], object],
    recorder: Recorder | None = None,
) -> Evaluation | None:
    """Evaluate the session's agent; None if `stop` came first.

    In a separate environment the session does not change. In the training environment a new episode begins afterwards.
    Raises EnvironmentFailedError.
    """
    encoder = session.perception.encoder if isinstance(session.perception, LatentPerception) else None
    env_seed, rng = game_seeds(plan.config.seed, session.timestep)
    if plan.config.eval_in == "separate":
        with closing(open_env(plan, seed=env_seed, training=False, on_hang=session.on_hang)) as env:
            return evaluate_agent(plan, session.agent, encoder, session.ledger, env, rng, stop, played, recorder)
    before = session.env.state()
    evaluation = evaluate_agent(plan, session.agent, encoder, session.ledger, session.env, rng, stop, played, recorder)
    if evaluation is None and before is not None:
        session.env.restore(before)  # a resumed run repeats the evaluation
    else:
        session.begin_anew()
    return evaluation


def evaluate_agent(
    plan: BytePlan,
    agent: Agent,
    encoder: OnnxEncoder | None,
    ledger: Ledger,
    env: Playable,
    rng: np.random.Generator,
    stop: Callable[[], bool],
    played: Callable[[int], object],
    recorder: Recorder | None = None,
) -> Evaluation | None:
    """Play `eval_episodes` episodes in `env`; None if `stop` came first. `rng` draws the random actions.

    `encoder` is the frozen encoder if the agent reads latents. `played` is called with the number of finished episodes.
    `recorder` receives the frames that the agent sees. Raises EnvironmentFailedError.
    """
    perception = new_perception(plan, encoder, ledger)
    try:
        return evaluate(
            env,
            perception,
            lambda observed: agent.greedy(observed.input),
            episodes=plan.config.eval_episodes,
            epsilon=plan.config.settings.evaluation_epsilon,
            rng=rng,
            max_steps=plan.config.eval_max_steps,
            stop=stop,
            played=played,
            recorder=recorder,
        )
    finally:
        perception.release()
        ledger.release(Line.WORKSPACE, perception.stack.frames)


def _open_encoder(graph: bytes, plan: BytePlan, ledger: Ledger) -> OnnxEncoder:
    try:
        return OnnxEncoder(graph, threads=plan.config.threads, ledger=ledger, device=plan.config.device)
    except Exception as error:  # ONNX Runtime's exception types are not public
        raise BadInputError(f"encoder.onnx of the newest checkpoint: {describe_error(error)}") from error


def load_agent(plan: BytePlan, saved: Saved, state: State, ledger: Ledger) -> tuple[Agent, OnnxEncoder | None]:
    """Return the agent of a checkpoint, whose `state` is given, and its frozen encoder if it reads latents.

    Raises BadInputError if the checkpoint is not one of this version.
    """
    agent = make_agent(plan, seed=0)
    encoder = None
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    if saved.graph is not None:
        encoder = _open_encoder(saved.graph, plan, ledger)
    with checkpoint.reading(saved.path):
        agent.restore(state)
    return agent, encoder


def evaluate_run(
    plan: BytePlan, saved: Saved, state: State, *, record: Path | None = None, progress_bar: bool = False
) -> tuple[Evaluation | None, int | None]:
    """Evaluate the agent of a checkpoint, whose `state` is given. Write a video of all episodes to `record`.

    Returns the evaluation and None, or None and the number of the signal that stopped it. Raises BadInputError if the
    checkpoint is not one of this version, or `record` cannot be written.
    """
    ledger = Ledger({})
    agent, encoder = load_agent(plan, saved, state, ledger)
    env_seed, rng = game_seeds(plan.config.seed, saved.timestep)
    LOG.info("evaluating step %s: %s", f"{saved.timestep:,}", evaluation_cost(plan.config))
    progress = tqdm(total=plan.config.eval_episodes, unit="game", disable=not (progress_bar and sys.stderr.isatty()))
    with (
        progress,
        StopSignal() as stop,
        closing(open_env(plan, seed=env_seed, training=False, on_hang=ending("eval"))) as env,
        Recorder.writing(record) as recorder,
        in_real_time(env, limits_asked(plan.config)) as playing,
    ):
        evaluation = evaluate_agent(
            plan,
            agent,
            encoder,
            ledger,
            playing,
            rng,
            stop,
            lambda count: progress.update(count - progress.n),
            recorder,
        )
    return evaluation, None if evaluation is not None else stop.received
