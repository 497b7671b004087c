"""The training loop: one step at a time, the same before the freeze and after it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent, UpdateResult
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.envs import EnvError, Episode
from seer_edge.envs.actions import Actions
from seer_edge.envs.guarded import Guarded, open_guarded
from seer_edge.errors import EnvironmentFailedError, RunStoppedError
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.transfer import TakenEncoder
from seer_edge.training.worker import Beside
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import FramePerception, LatentPerception, Observed, Perception
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.replay import Batch, Replay
from seer_runtime.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.system.state import State, StateError, generator_state, restore_generator

MOST_ROWS_A_STEP = 3
"""That of the step, a final one where it was truncated, and that of an episode which a resumption interrupted."""

OnHang = Callable[[str], object]
"""Told why, in a thread of its own; does not return."""


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    seconds: float
    loss: float | None  # None: no update was made
    episode: Episode | None  # the game that ended with this step


@dataclass(frozen=True)
class Seeds:
    """One for each random stream, all of them from the run's own."""

    env: int
    agent: int
    replay: int
    views: int
    exploration: int

    @classmethod
    def of(cls, seed: int) -> "Seeds":
        """The streams of a run."""
        return cls(*(int(word) for word in np.random.SeedSequence(seed).generate_state(5)))

    def env_from(self, timestep: int) -> int:
        """For an environment that is made anew at `timestep`, so that it does not show its first episode once more."""
        return int(np.random.SeedSequence((self.env, timestep)).generate_state(1)[0]) if timestep else self.env


@dataclass(frozen=True)
class Drawn:
    """A batch, and what the agent made of it that does not depend on the networks that train."""

    batch: Batch
    prepared: Any


class Session:
    """Everything that a run changes as it goes: environment, agent, replay, perception, step count."""

    def __init__(
        self,
        plan: BytePlan,
        env: Guarded,
        agent: Agent,
        replay: Replay,
        perception: Perception,
        ledger: Ledger,
        seeds: Seeds,
        graph: bytes | None = None,
        on_hang: OnHang | None = None,
    ) -> None:
        self.plan = plan
        self.env = env
        self.agent = agent
        self.replay = replay
        self.perception = perception
        self.ledger = ledger
        self.seeds = seeds
        self.graph = graph  # of the frozen encoder, where it is run by ONNX Runtime
        self.on_hang = on_hang
        self.exploration = np.random.default_rng(seeds.exploration)
        self.timestep = 0
        self.observed: Observed  # by `begin` or `restore`
        self._learner: Beside[UpdateResult] = Beside()
        self._in_work: Batch | None = None  # being learned from, beside this thread
        self._waiting: Drawn | None = None  # to be learned from
        if self.config.pipeline:
            agent.act_beside_updates()

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.plan.config

    @property
    def phase(self) -> str:
        """What the replay holds: `pixel` before the freeze, `latent` after it."""
        return "latent" if self.agent.reads_latents else "pixel"

    def begin(self) -> None:
        """Begin an episode; its frame stack goes on where the environment begins no new scene.

        Raises EnvironmentFailedError.
        """
        frame = self.env.reset()
        if not self.env.new_scene:
            self.replay.continue_scene()
        self.observed = self.perception.observe(frame, first=self.env.new_scene)

    def step(self) -> StepReport:
        """Act, store, learn. Raises EnvironmentFailedError, or RunStoppedError where the loss is not finite.

        Under `--pipeline on` the batch that was drawn by the step before is learned from while this one acts, stores
        and draws the next.
        """
        begin = time.perf_counter()
        self.agent.refresh()
        if self.config.pipeline:
            due, self._waiting = self._waiting, None
            if due is not None:
                self._in_work = due.batch
                self._learner.begin(lambda: self.agent.update(due.batch, due.prepared))
            episode = self._interact()
            drawn = self._draw()
            loss = self._learned()
            self._waiting = drawn
        else:
            episode = self._interact()
            self._waiting = self._draw()
            loss = self.catch_up()
        return StepReport(time.perf_counter() - begin, loss, episode)

    def _interact(self) -> Episode | None:
        """Act on the present observation and perceive the next; returns the game that ended."""
        settings = self.config.settings
        if self.timestep < settings.random_steps:
            action = self.env.spec.actions.sample(self.exploration)
        else:
            action = self.agent.explore(self.observed.input)
        step = self.env.step(action)
        reward = step.reward
        if settings.reward_clip is not None:
            reward = float(np.clip(reward, -settings.reward_clip, settings.reward_clip))
        self.replay.append(self.observed.row, action, reward, terminated=step.terminated, truncated=step.truncated)
        self.timestep += 1
        if step.truncated:
            self.replay.append_final(self.perception.observe(step.frame, first=False).row)
        if step.terminated or step.truncated:
            self.begin()
        else:
            self.observed = self.perception.observe(step.frame, first=False)
        return step.episode

    def _draw(self) -> "Drawn | None":
        """The batch that this step is to learn from."""
        starts, total = self.config.settings.learning_starts, self.config.total_timesteps
        if self.timestep <= starts:
            return None
        progress = (self.timestep - starts) / max(total - starts, 1)
        return self._prepared(self.replay.sample(progress, positives=self.agent.contrasts))

    def _prepared(self, batch: Batch) -> "Drawn":
        return Drawn(batch, self.agent.prepare(batch))

    def catch_up(self) -> float | None:
        """Leave nothing to be learned: no update in work, no batch that waits; the loss of the last, if there was one.

        Raises RunStoppedError where it is not finite.
        """
        loss = self._learned()
        if self._waiting is not None:
            due, self._waiting = self._waiting, None
            if self.config.pipeline:
                self.agent.refresh(new_noise=False)  # an update came after the last
            loss = self._note(due.batch, self.agent.update(due.batch, due.prepared))
        return loss

    def _learned(self) -> float | None:
        """Wait for the update in work; its loss, None where there is none."""
        batch, self._in_work = self._in_work, None
        return None if batch is None else self._note(batch, self._learner.wait())

    def _note(self, batch: Batch, result: UpdateResult) -> float:
        if not math.isfinite(result.loss):
            raise RunStoppedError(f"the loss at step {self.timestep} is {result.loss}: training diverged")
        self.replay.update_priorities(batch.row_ids, result.priorities)
        return result.loss

    # --- state ---------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, State | None]:
        """The state of each part; the environment's is None where it has none to give, a batch's where none waits.

        In the middle of a step, as when its environment failed, an update in work is waited for.
        """
        self._learned()
        waiting = self._waiting
        return {
            "waiting": None if waiting is None else self.replay.batch_state(waiting.batch),
            "agent": self.agent.state(),
            "replay": self.replay.state(),
            "perception": self.perception.state(),
            "environment": self.env.state(),
            "exploration": State(generator_state(self.exploration)),
        }

    def restore(self, saved: Saved) -> list[str]:
        """Go on from a generation; returns a line for each thing that is not as it was.

        The session is built frozen as the generation says. An environment that cannot be restored begins a new
        episode: the one that was interrupted ends in the replay as truncated. Raises StateError where the generation
        is not of this session, CorruptFileError, OSError, EnvironmentFailedError.
        """
        notes = []
        self.timestep = saved.timestep
        self.agent.restore(saved.agent())
        restore_generator(self.exploration, saved.state.get("exploration"))
        dropped = saved.restore_replay(self.replay)
        check_actions(self.replay, self.env.spec.actions)
        if dropped:
            rows = self.replay.store.rows
            notes.append(f"the oldest {dropped:,} rows had no room in this budget; the newest {rows:,} stay")
        waiting = saved.part("waiting")
        batch = None if waiting is None else self.replay.restore_batch(waiting)
        self._waiting = None if batch is None else self._prepared(batch)
        perceived = saved.part("perception")
        if perceived is None:
            raise StateError("it has no observation")
        self.observed = self.perception.restore(perceived)
        environment = saved.part("environment")
        reason = "its environment gave no state to save"
        if environment is not None:
            try:
                self.env.restore(environment)
            except StateError as error:
                environment, reason = None, f"its environment cannot be restored ({error})"
                self.env.close()
                self.env = _open_training_env(self.plan, self.seeds, self.on_hang, self.timestep)
        if environment is None:
            self.replay.interrupt(self.observed.row)
            self.begin()
            notes.append(f"{reason}: a new episode begins")
        return notes


def build_session(plan: BytePlan, taken: TakenEncoder | None = None, on_hang: OnHang | None = None) -> Session:
    """A run at its first step; with an encoder that is `taken`, frozen from there."""
    agent = make_agent(plan, seed=Seeds.of(plan.config.seed).agent)
    graph = None
    if taken is not None:
        taken.give(agent, reads_latents=plan.latent_replay)
        graph = taken.graph
    session = _assemble(plan, agent, graph, on_hang)
    if taken is not None:
        taken.fill(session.replay)
    session.begin()
    return session


def resume_session(plan: BytePlan, saved: Saved, on_hang: OnHang | None = None) -> tuple[Session, list[str]]:
    """A run as the generation left it, and a line for each thing that is not as it was (see `Session.restore`)."""
    agent = make_agent(plan, seed=0)
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    session = _assemble(plan, agent, saved.graph, on_hang, timestep=saved.timestep)
    try:
        return session, session.restore(saved)
    except BaseException:
        session.env.close()
        raise


def _assemble(
    plan: BytePlan, agent: Agent, graph: bytes | None, on_hang: OnHang | None, *, timestep: int = 0
) -> Session:
    """Everything around the agent; with the `graph` of a frozen encoder, over a replay of latents."""
    config, seeds = plan.config, Seeds.of(plan.config.seed)
    ledger = Ledger({Line.OBSERVATIONS: config.mem_budget_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
    encoder = None
    if graph is not None:
        encoder = OnnxEncoder(graph, threads=config.threads, ledger=ledger, device=config.device)
    replay = build_replay(plan, ledger, seeds.replay, latents=encoder is not None)
    env = _open_training_env(plan, seeds, on_hang, timestep)
    perception = new_perception(plan, encoder, ledger, views_seed=seeds.views)
    return Session(plan, env, agent, replay, perception, ledger, seeds, graph, on_hang)


def _open_training_env(plan: BytePlan, seeds: Seeds, on_hang: OnHang | None, timestep: int) -> Guarded:
    return open_env(plan, seed=seeds.env_from(timestep), training=True, on_hang=on_hang)


def open_env(plan: BytePlan, *, seed: int, training: bool, on_hang: OnHang | None) -> Guarded:
    """The run's environment, not trusted; `on_hang` is told where it does not answer in time, and does not return.

    Raises EnvironmentFailedError where it cannot be built: the plan's own could.
    """
    config = plan.config
    timeout_seconds = None if on_hang is None else config.env_timeout_seconds
    try:
        return open_guarded(
            config.env,
            config.env_options,
            seed=seed,
            training=training,
            timeout_seconds=timeout_seconds,
            on_hang=on_hang,
        )
    except EnvError as error:
        raise EnvironmentFailedError(str(error)) from error


def check_actions(replay: Replay, actions: Actions) -> None:
    """Raise StateError where a row of `replay` has an action that is none of the environment's."""
    if not actions.holds(replay.store.columns.action[: replay.store.rows]):
        raise StateError(f"the replay holds actions that are none of the environment's {actions}")


def build_replay(plan: BytePlan, ledger: Ledger, seed: int, *, latents: bool) -> Replay:
    """The empty replay of a run, of frames or of `latents`, in an arena of its own."""
    config, settings = plan.config, plan.config.settings
    actions = plan.env.actions
    store = RowStore(
        Arena(plan.arena_bytes, ledger),
        plan.latent_codec(ledger) if latents else plan.frame_codec(),
        stack=1 if latents else settings.stack,
        ledger=ledger,
        action_shape=actions.shape,
        action_dtype=actions.dtype,
    )
    sampler: Sampler = UniformSampler(store)
    if config.replay == "prioritized":
        sampler = PrioritizedSampler(
            store, ledger, exponent=settings.priority_exponent, beta_start=settings.priority_weight_start
        )
    return Replay(
        store,
        sampler,
        batch_size=settings.batch_size,
        n_step=settings.n_step,
        gamma=settings.gamma,
        rng=np.random.default_rng(seed),
        ledger=ledger,
        spare_rows=MOST_ROWS_A_STEP if config.pipeline else 0,
    )


def new_perception(
    plan: BytePlan, encoder: OnnxEncoder | None, ledger: Ledger, *, views_seed: int | None = None
) -> Perception:
    """Perception with a stack of its own, counted as workspace; without a seed for views, one that stores nothing."""
    depth, shape = plan.config.settings.stack, plan.env.frame_shape
    stack = FrameStack(depth, shape, ledger.allocate(Line.WORKSPACE, (depth, *shape), np.uint8))
    if encoder is None:
        return FramePerception(stack, plan.crop, ledger)
    return latent_perception(plan, stack, encoder, ledger, views_seed=views_seed)


def latent_perception(
    plan: BytePlan, stack: FrameStack, encoder: OnnxEncoder, ledger: Ledger, *, views_seed: int | None
) -> LatentPerception:
    """Perception of what `stack` holds and will hold through the frozen encoder."""
    augmentations = 0 if views_seed is None else plan.config.augmentations
    rng = np.random.default_rng(views_seed or 0)
    return LatentPerception(stack, plan.crop, encoder, ledger, augmentations=augmentations, rng=rng)
