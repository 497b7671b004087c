"""The training loop: one step at a time, the same before the freeze and after it."""

import math
import time
from dataclasses import dataclass

import numpy as np

from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.config import TrainConfig
from seer_edge.envs import Environment, Episode, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import RunStoppedError
from seer_edge.plan import BytePlan
from seer_runtime.arena import Arena
from seer_runtime.codecs import frame_codec
from seer_runtime.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.perception import FramePerception, LatentPerception, Observed
from seer_runtime.preprocess import FrameStack
from seer_runtime.replay import Replay
from seer_runtime.samplers import PrioritizedSampler, Sampler, UniformSampler
from seer_runtime.store import RowStore


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    seconds: float
    loss: float | None  # None: no update was made
    episode: Episode | None  # the game that ended with this step


class Session:
    """Everything that a run changes as it goes: environment, agent, replay, perception, step count."""

    def __init__(
        self,
        config: TrainConfig,
        env: Environment,
        agent: RainbowAgent,
        replay: Replay,
        perception: FramePerception | LatentPerception,
        ledger: Ledger,
    ) -> None:
        self.config = config
        self.env = env
        self.agent = agent
        self.replay = replay
        self.perception = perception
        self.ledger = ledger
        self.graph: bytes | None = None  # of the frozen encoder
        self.timestep = 0
        self.observed: Observed = perception.observe(env.reset(), first=True)

    @property
    def phase(self) -> str:
        """`pixel` before the freeze, `latent` after it."""
        return "latent" if self.agent.frozen else "pixel"

    def step(self) -> StepReport:
        """Act, store, learn. Raises EnvironmentFailedError, or RunStoppedError where the loss is not finite."""
        begin = time.perf_counter()
        settings = self.config.rainbow
        action = self.agent.act(self.observed.input)
        step = self.env.step(action)
        reward = float(np.clip(step.reward, -settings.reward_clip, settings.reward_clip))
        self.replay.append(self.observed.row, action, reward, terminated=step.terminated, truncated=step.truncated)
        self.timestep += 1
        if step.truncated:
            self.replay.append_final(self.perception.observe(step.frame, first=False).row)
        if step.terminated or step.truncated:
            self.observed = self.perception.observe(self.env.reset(), first=True)
        else:
            self.observed = self.perception.observe(step.frame, first=False)
        loss = self._learn() if self.timestep > settings.learning_starts else None
        return StepReport(time.perf_counter() - begin, loss, step.episode)

    def _learn(self) -> float:
        starts, total = self.config.rainbow.learning_starts, self.config.total_timesteps
        batch = self.replay.sample((self.timestep - starts) / max(total - starts, 1))
        result = self.agent.update(batch)
        if not math.isfinite(result.loss):
            raise RunStoppedError(f"the loss at step {self.timestep} is {result.loss}: training diverged")
        self.replay.update_priorities(batch.row_ids, result.priorities)
        return result.loss


def build_session(plan: BytePlan) -> Session:
    """Environment, agent and replay of a run, all random streams spawned from its one seed."""
    config, settings = plan.config, plan.config.rainbow
    env_seed, agent_seed, replay_seed = (int(word) for word in np.random.SeedSequence(config.seed).generate_state(3))
    ledger = Ledger({Line.OBSERVATIONS: config.mem_budget_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
    store = RowStore(
        Arena(plan.arena_bytes, ledger), frame_codec(plan.env.frame_shape), stack=settings.stack, ledger=ledger
    )
    sampler: Sampler = UniformSampler(store)
    if config.replay == "prioritized":
        sampler = PrioritizedSampler(
            store, ledger, exponent=settings.priority_exponent, beta_start=settings.priority_weight_start
        )
    replay = Replay(
        store,
        sampler,
        batch_size=settings.batch_size,
        n_step=settings.n_step,
        gamma=settings.gamma,
        rng=np.random.default_rng(replay_seed),
        ledger=ledger,
    )
    env = Guarded(make_env(config.env, protocol=config.protocol, seed=env_seed, training=True))
    agent = RainbowAgent(plan.encoder, plan.head, settings, seed=agent_seed, device=config.device)
    return Session(config, env, agent, replay, FramePerception(new_stack(plan, ledger)), ledger)


def new_stack(plan: BytePlan, ledger: Ledger) -> FrameStack:
    """An empty acting stack, counted as workspace."""
    depth, shape = plan.config.rainbow.stack, plan.env.frame_shape
    return FrameStack(depth, shape, ledger.allocate(Line.WORKSPACE, (depth, *shape), np.uint8))
