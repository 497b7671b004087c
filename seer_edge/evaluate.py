"""Evaluation: whole games, raw rewards, no noise, epsilon-greedy with a small epsilon."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from seer_edge import checkpoint
from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.checkpoint import Saved
from seer_edge.envs import Action, Environment, Episode
from seer_edge.errors import EXIT_UNSAFE, BadInputError, origin
from seer_edge.host import StopSignal
from seer_edge.loop import OnHang, Session, new_perception, open_env
from seer_edge.plan import BytePlan
from seer_runtime.encoder import OnnxEncoder
from seer_runtime.ledger import Ledger, Line
from seer_runtime.perception import LatentPerception, Observed, Perception
from seer_runtime.state import State

EPISODE_STEPS_MAX = 27_000
"""Where a game that does not end is left, with its return up to there: Atari's own limit of 108,000 frames."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole games. Raises ValueError for none, and for one that is not finite."""

    returns: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.returns or not np.isfinite(self.returns).all():
            raise ValueError(f"not the returns of games: {self.returns}")

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """Population standard deviation over episodes."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, object]:
        """The `eval` entry of `summary.json`."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "returns": list(self.returns),
        }


def play(
    env: Environment,
    perception: Perception,
    act: Callable[[Observed], Action],
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> Iterator[Episode | None]:
    """Play on and on; yields after each step, with the episode where a whole game ended or became too long."""
    observed = perception.observe(env.reset(), first=True)
    total, length_steps = 0.0, 0
    while True:
        action = env.spec.actions.sample(rng) if rng.random() < epsilon else act(observed)
        step = env.step(action)
        total, length_steps = total + step.reward, length_steps + 1
        episode = step.episode
        if episode is None and length_steps == EPISODE_STEPS_MAX:
            episode = Episode(total, length_steps)
        ended = step.terminated or step.truncated or episode is not None
        yield episode
        if episode is not None:
            total, length_steps = 0.0, 0
        observed = perception.observe(env.reset() if ended else step.frame, first=ended)


def evaluate(
    env: Environment,
    perception: Perception,
    act: Callable[[Observed], Action],
    *,
    episodes: int,
    epsilon: float,
    rng: np.random.Generator,
    stop: Callable[[], bool] = lambda: False,
    played: Callable[[int], object] = lambda count: None,
) -> Evaluation | None:
    """Returns of `episodes` whole games, or None where `stop` asked to leave off first.

    `played` is told the number of games after each.
    """
    returns: list[float] = []
    for episode in play(env, perception, act, epsilon=epsilon, rng=rng):
        if stop():
            return None
        if episode is not None:
            returns.append(episode.episode_return)
            played(len(returns))
            if len(returns) == episodes:
                break
    return Evaluation(tuple(returns))


def evaluate_session(
    plan: BytePlan, session: Session, stop: Callable[[], bool], played: Callable[[int], object]
) -> Evaluation | None:
    """Evaluate the agent as it stands, with a stack of its own."""
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
    """Play `eval_episodes` games in an environment of their own; `encoder` is the frozen one, if there is one."""
    perception = new_perception(plan, encoder, ledger)
    seeds = np.random.SeedSequence((plan.config.seed, timestep)).generate_state(2)
    env = open_env(plan, seed=int(seeds[0]), training=False, on_hang=on_hang)
    try:
        return evaluate(
            env,
            perception,
            lambda observed: agent.greedy(observed.input),
            episodes=plan.config.eval_episodes,
            epsilon=plan.config.settings.evaluation_epsilon,
            rng=np.random.default_rng(int(seeds[1])),
            stop=stop,
            played=played,
        )
    finally:
        env.close()
        perception.release()
        ledger.release(Line.WORKSPACE, perception.stack.frames)


def _open_encoder(graph: bytes, plan: BytePlan, ledger: Ledger) -> OnnxEncoder:
    try:
        return OnnxEncoder(graph, threads=plan.config.threads, ledger=ledger)
    except Exception as error:  # ONNX Runtime's own types, none of them public
        raise BadInputError(f"encoder.onnx of the newest checkpoint: {origin(error)}") from error


def _give_up(reason: str) -> None:
    print(f"seer-edge eval: the environment failed: {reason}", file=sys.stderr, flush=True)
    os._exit(EXIT_UNSAFE)


def evaluate_run(plan: BytePlan, saved: Saved, state: State, *, as_json: bool = False) -> int:
    """Evaluate the agent of a generation, whose `state` is given, and print the returns; returns the exit status.

    Raises BadInputError where it is not one of this version.
    """
    agent = make_agent(plan, seed=0)
    ledger, encoder = Ledger({}), None
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    if saved.graph is not None:
        encoder = _open_encoder(saved.graph, plan, ledger)
    with checkpoint.reading(saved.path):
        agent.restore(state)
    progress = tqdm(total=plan.config.eval_episodes, unit="game", disable=not sys.stderr.isatty())
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
    if evaluation is None:
        return 128 + (stop.received or 0)
    if as_json:
        print(json.dumps({"env": plan.env.id, "timestep": saved.timestep, **evaluation.to_json()}))
        return 0
    returns = " ".join(f"{value:g}" for value in evaluation.returns)
    print(f"{plan.env.id}, step {saved.timestep:,}, {len(evaluation.returns)} episodes")
    print(f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}: {returns}")
    return 0
