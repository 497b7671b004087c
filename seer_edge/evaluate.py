"""Evaluation: whole games, raw rewards, no noise, epsilon-greedy with a small epsilon."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from seer_edge import checkpoint
from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.envs import Action, Environment, Episode, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import BadInputError, origin
from seer_edge.host import StopSignal
from seer_edge.loop import Session, new_perception
from seer_edge.plan import BytePlan
from seer_edge.run_folder import RunFolder
from seer_runtime.encoder import OnnxEncoder
from seer_runtime.ledger import Ledger, Line
from seer_runtime.perception import LatentPerception, Observed, Perception


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole games."""

    returns: tuple[float, ...]

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
    """Play on and on; yields after each step, with the episode where a whole game ended."""
    observed = perception.observe(env.reset(), first=True)
    while True:
        action = env.spec.actions.sample(rng) if rng.random() < epsilon else act(observed)
        step = env.step(action)
        ended = step.terminated or step.truncated
        yield step.episode
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
    return evaluate_agent(plan, session.agent, encoder, session.ledger, session.timestep, stop, played)


def evaluate_agent(
    plan: BytePlan,
    agent: Agent,
    encoder: OnnxEncoder | None,
    ledger: Ledger,
    timestep: int,
    stop: Callable[[], bool],
    played: Callable[[int], object],
) -> Evaluation | None:
    """Play `eval_episodes` games in an environment of their own; `encoder` is the frozen one, if there is one."""
    perception = new_perception(plan, encoder, ledger)
    seeds = np.random.SeedSequence((plan.config.seed, timestep)).generate_state(2)
    env = Guarded(make_env(plan.config.env, plan.config.env_options, seed=int(seeds[0]), training=False))
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


def evaluate_run(plan: BytePlan, folder: RunFolder, *, as_json: bool = False) -> int:
    """Evaluate a run's newest sound generation and print the returns; returns the exit status.

    Raises BadInputError where there is none, or none of this configuration.
    """
    generation = checkpoint.read_agent(folder.checkpoints)
    for line in generation.skipped:
        print(line, file=sys.stderr)
    agent = make_agent(plan, seed=0)
    ledger, encoder = Ledger({}), None
    if generation.frozen:
        agent.freeze_encoder(reads_latents=generation.graph is not None)
    if generation.graph is not None:
        encoder = _open_encoder(generation.graph, plan, ledger)
    try:
        agent.load_arrays(generation.arrays)
    except ValueError as error:
        raise BadInputError(f"{folder.config}: does not describe the agent in its checkpoint ({error})") from error
    progress = tqdm(total=plan.config.eval_episodes, unit="game", disable=not sys.stderr.isatty())
    with progress, StopSignal() as stop:
        evaluation = evaluate_agent(
            plan, agent, encoder, ledger, generation.timestep, stop, lambda count: progress.update(count - progress.n)
        )
    if evaluation is None:
        return 128 + (stop.received or 0)
    if as_json:
        print(json.dumps({"env": plan.env.id, "timestep": generation.timestep, **evaluation.to_json()}))
        return 0
    returns = " ".join(f"{value:g}" for value in evaluation.returns)
    print(f"{plan.env.id}, step {generation.timestep:,}, {len(evaluation.returns)} episodes")
    print(f"return {evaluation.mean_return:.1f} ± {evaluation.std_return:.1f}: {returns}")
    return 0
