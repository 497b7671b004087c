"""A training session: one step at a time, by the same code before and after the freeze."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.envs import Action, Episode, Step
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import BadInputError, EnvironmentFailedError, StepEndedError
from seer_edge.runs.checkpoint import Saved, Snapshot, encoder_identity
from seer_edge.runs.demos import DemoRow, open_demos
from seer_edge.training.components import (
    LatentPhase,
    OnHang,
    Seeds,
    build_replay,
    check_actions,
    closed_on_failure,
    new_ledger,
    new_perception,
    open_training_env,
)
from seer_edge.training.freeze_watch import Comparison, FreezeWatch
from seer_edge.training.updates import PipelinedUpdates, PreparedBatch, Updates
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import Observed, Perception
from seer_runtime.replay.replay import NothingToSampleError, Replay
from seer_runtime.system.ledger import Ledger
from seer_runtime.system.state import State, StateError, generator_state, restore_generator

REWARD_MAX = 1e18
"""Limit on the size of a reward, whose square float32 must hold."""


@dataclass(frozen=True)
class StepReport:
    """Result of one step."""

    seconds: float
    loss: float | None  # of the last update; None if the step made no update
    episode: Episode | None  # the episode that this step ended


class Session:
    """The state that a run changes as it trains: environment, agent, replay, perception and step count."""

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
        self.graph = graph  # ONNX, of the frozen encoder; None while frames are encoded by torch
        self.on_hang = on_hang
        self.exploration = np.random.default_rng(seeds.exploration)
        self.timestep = 0
        self.observed: Observed  # set by `begin` and `restore`
        self.stop: Callable[[], bool] = lambda: False  # whether to end a step that the environment discards
        window = plan.config.freeze_window
        self.watch = None if window is None or agent.frozen else FreezeWatch(window, [])
        self.updates = self._make_updates()

    def _make_updates(self) -> Updates:
        return (PipelinedUpdates if self.config.pipeline else Updates)(self.agent, self.replay)

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.plan.config

    @property
    def phase(self) -> str:
        """What the replay holds: `pixel` before the freeze, `latent` after it."""
        return "latent" if self.agent.reads_latents else "pixel"

    @property
    def is_paused(self) -> bool:
        """Whether somebody has paused the control of the environment."""
        return False

    # --- one step ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin an episode. The frame stack carries over if the environment does not begin a new scene.

        Raises EnvironmentFailedError.
        """
        frame = self.env.reset()
        if not self.env.new_scene:
            self.replay.continue_scene()
        self.observed = self.perception.observe(frame, first=self.env.new_scene)

    def fill_from(self, demos: Iterable[DemoRow]) -> None:
        """Store demonstrations, before the first step. Raises EnvironmentFailedError for a reward that is too large."""
        terminated = False
        for row in demos:
            if terminated and not row.begins:
                self.replay.continue_scene()
            observed = self.perception.observe(row.frame, first=row.begins)
            if row.final:
                self.replay.append_final(observed.row)
            else:
                ends = {"terminated": row.terminated, "truncated": row.truncated}
                self.replay.append(observed.row, row.action, self._learned(row.reward), **ends)
            terminated = row.terminated

    def begin_anew(self) -> None:
        """Begin an episode in a new scene, after an evaluation played the environment.

        An episode that was running ends as truncated. Raises EnvironmentFailedError.
        """
        self.replay.interrupt(self.observed.row)
        self.observed = self.perception.observe(self.env.reset(), first=True)

    def step(self) -> StepReport:
        """Act, store the step, sample a batch and learn.

        With `--pipeline on` the agent learns from the batch of the step before, on a second thread, while this step
        acts, stores and samples. Raises EnvironmentFailedError, StepEndedError, or RunStoppedError if the loss is not
        finite.
        """
        begin = time.perf_counter()
        self.updates.start()
        episode = self._interact()
        loss = self.updates.finish(self._sample(), self.timestep)
        return StepReport(time.perf_counter() - begin, loss, episode)

    def _interact(self) -> Episode | None:
        """Act on the current observation, store the step and perceive the next one; return the ended episode."""
        while (step := self.env.step(action := self._choose())).discard:
            self._skip(step)
            if step.terminated or step.truncated:
                self.begin()
            if self.stop():
                raise StepEndedError
        self._store(action if step.action is None else step.action, step)
        if step.terminated or step.truncated:
            self.begin()
        else:
            self.observed = self.perception.observe(step.frame, first=False)
        return step.episode

    def _choose(self) -> Action:
        if self.timestep < self.config.settings.random_steps:
            return self.env.spec.actions.sample(self.exploration)
        return self.agent.explore(self.observed.input, self.timestep)

    def _skip(self, step: Step) -> None:
        """Store nothing of `step`. What was stored before it ends as truncated, and its frame begins a scene."""
        self.replay.interrupt(self.observed.row)
        self.observed = self.perception.observe(step.frame, first=True)

    def _store(self, action: Action, step: Step) -> None:
        """Store the current observation with the action and the step that followed. Raises EnvironmentFailedError."""
        reward = self._learned(step.reward)
        self.replay.append(self.observed.row, action, reward, terminated=step.terminated, truncated=step.truncated)
        self.timestep += 1
        if step.truncated:
            self.replay.append_final(self.perception.observe(step.frame, first=False).row)

    def _learned(self, reward: float) -> float:
        """Return the reward that is learned from. Raises EnvironmentFailedError."""
        limit = self.config.settings.reward_clip
        learned = reward if limit is None else float(np.clip(reward, -limit, limit))
        if abs(learned) > REWARD_MAX:
            raise EnvironmentFailedError(
                f"the reward is {reward:g}, which is too large to learn from; scale rewards to about 1 a step, or "
                "begin a run with --set reward_clip=1"
            )
        return learned

    def _sample(self) -> PreparedBatch | None:
        """Sample and prepare a batch; None until learning starts, and until the replay has a window.

        Raises NothingToSampleError if the replay has overwritten rows and still has none.
        """
        starts, total = self.config.settings.learning_starts, self.config.schedule_steps
        if self.timestep <= starts:
            return None
        progress = (self.timestep - starts) / max(total - starts, 1)
        try:
            batch = self.replay.sample(progress, positives=self.agent.contrasts)
        except NothingToSampleError:
            if self.replay.store.oldest:
                raise
            return None
        return PreparedBatch(batch, self.agent.prepare(batch))

    def watch_freeze(self) -> Comparison | None:
        """Compare the networks with earlier ones if --freeze-at auto asks for it now. Return a comparison of this step.

        No update may be running.
        """
        if self.watch is None:
            return None
        if self.watch.is_due(self.timestep, self.config.settings.learning_starts):
            self.watch.observe(self.timestep, self.agent, self.replay, self.plan.encoder)
        return self.watch.latest(self.timestep)

    def flush_updates(self) -> float | None:
        """Finish the running update and learn from the pending batch; return the last loss, or None.

        Raises RunStoppedError if a loss is not finite.
        """
        return self.updates.flush(self.timestep)

    # --- the freeze ----------------------------------------------------------------------------------------

    def freeze_layers(self, plan: BytePlan) -> None:
        """Freeze the lowest layers of the encoder under `plan`; the replay keeps its frames."""
        self.plan = plan
        self.watch = None
        self.agent.freeze_encoder(reads_latents=False)

    def switch_to_latents(self, plan: BytePlan, latents: LatentPhase) -> int:
        """Freeze the encoder under `plan` and convert the replay to latents in place; return the rows kept.

        No update may be running or pending. After an exception the session cannot be used any more.
        """
        self.plan = plan
        self.watch = None
        self.agent.freeze_encoder(reads_latents=True)
        self.graph = latents.graph
        rows = latents.conversion.run(latents.perception.encoder, latents.progress)
        self.perception.release()
        self.perception = latents.perception
        self.observed = latents.perception.current()
        return rows

    # --- figures -------------------------------------------------------------------------------------------

    def interval_figures(self) -> dict[str, float]:
        """Return columns of `progress.csv`, of the log interval that ends now. They replace those of the run."""
        return {}

    def summary_figures(self) -> Mapping[str, Any] | None:
        """Return the entry `real_time` of `summary.json`; None where the environment waits for the agent."""
        return None

    # --- state ---------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state that a checkpoint stores; its arrays are mostly the session's own memory.

        Waits for a running update first: a run also saves when its environment fails in the middle of a step.
        Raises RunStoppedError if that update's loss is not finite.
        """
        self.updates.wait(self.timestep)
        pending = self.updates.pending
        return Snapshot(
            timestep=self.timestep,
            frozen=self.agent.frozen,
            config=self.config,
            encoder=encoder_identity(self.plan),
            graph=self.graph,
            agent=self.agent.state(),
            replay=self.replay.state(),
            perception=self.perception.state(),
            environment=self._saved_environment(),
            pending=None if pending is None else self.replay.batch_state(pending.batch),
            exploration=generator_state(self.exploration),
            watch=None if self.watch is None else self.watch.state(),
        )

    def restore(self, saved: Saved) -> list[str]:
        """Restore a checkpoint's state; return one line for each part that could not be restored.

        The session must have been assembled frozen or not, as the checkpoint is. If the environment's state cannot be
        restored, a new episode begins, and the replay marks the interrupted one as truncated. Raises StateError if the
        checkpoint does not match the session, CorruptFileError, OSError or EnvironmentFailedError.
        """
        notes = []
        self.timestep = saved.timestep
        self.agent.restore(saved.agent())
        restore_generator(self.exploration, saved.state.get("exploration"))
        dropped = saved.restore_replay(self.replay)
        check_actions(self.replay, self.env.spec.actions)
        if dropped:
            notes.append(
                f"dropped the oldest {dropped:,} rows, which do not fit into this budget; "
                f"kept the newest {self.replay.store.rows:,}"
            )
        pending = saved.pending()
        batch = None if pending is None else self.replay.restore_batch(pending)
        self.updates.pending = None if batch is None else PreparedBatch(batch, self.agent.prepare(batch))
        self.observed = self.perception.restore(saved.perception())
        watched = saved.watch()
        if self.watch is not None and watched is not None:
            self.watch.restore(watched, self.agent)
        lost = self._restore_environment(saved.environment())
        if lost is not None:
            self.replay.interrupt(self.observed.row)
            self.begin()
            notes.append(f"{lost}: a new episode begins")
        return notes

    def _saved_environment(self) -> State | None:
        return self.env.state()

    def _restore_environment(self, state: State | None) -> str | None:
        """Restore the environment, or build it again; return why its state was lost, or None."""
        if state is None:
            return "the environment saved no state"
        try:
            self.env.restore(state)
        except StateError as error:
            self.env.close()
            self.env = open_training_env(self.plan, self.seeds, self.on_hang, self.timestep)
            return f"the environment's state cannot be restored ({error})"
        return None


AnySession = TypeVar("AnySession", bound=Session)


def build_session(plan: BytePlan, on_hang: OnHang | None = None, kind: type[AnySession] = Session) -> AnySession:  # type: ignore[assignment]
    """Build the session of a new run, at step 0. Raises EnvironmentFailedError."""
    agent = make_agent(plan, seed=Seeds.of(plan.config.seed).agent)
    session = assemble_session(plan, agent, None, on_hang, kind=kind)
    with closed_on_failure(session.env):
        fill_and_begin(session)
    return session


def fill_and_begin(session: Session) -> None:
    """Store the run's demonstrations, if it has any, and begin its first episode.

    Raises BadInputError for the demonstrations, and EnvironmentFailedError.
    """
    config = session.config
    if config.demos is not None:
        with open_demos(Path(config.demos), session.plan.env, config.gray_levels) as demos:
            try:
                session.fill_from(demos)
            except EnvironmentFailedError as error:
                raise BadInputError(f"--demos {config.demos}: {error}") from error
    session.begin()


def resume_session(
    plan: BytePlan,
    saved: Saved,
    on_hang: OnHang | None = None,
    kind: type[AnySession] = Session,  # type: ignore[assignment]
) -> tuple[AnySession, list[str]]:
    """Build the session that a checkpoint describes; also return one line per part that could not be restored.

    Raises the errors of `Session.restore`.
    """
    agent = make_agent(plan, seed=0)
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    session = assemble_session(plan, agent, saved.graph, on_hang, timestep=saved.timestep, kind=kind)
    with closed_on_failure(session.env):
        return session, session.restore(saved)


def assemble_session(
    plan: BytePlan,
    agent: Agent,
    graph: bytes | None,
    on_hang: OnHang | None,
    *,
    timestep: int = 0,
    kind: type[AnySession] = Session,  # type: ignore[assignment]
) -> AnySession:
    """Build environment, replay and perception around `agent`; with the `graph` of a frozen encoder, on latents.

    Raises EnvironmentFailedError.
    """
    config, seeds, ledger = plan.config, Seeds.of(plan.config.seed), new_ledger(plan)
    encoder = None
    if graph is not None:
        encoder = OnnxEncoder(graph, threads=config.threads, ledger=ledger, device=config.device)
    replay = build_replay(plan, ledger, seeds.replay, latents=encoder is not None)
    env = open_training_env(plan, seeds, on_hang, timestep)
    with closed_on_failure(env):
        perception = new_perception(plan, encoder, ledger, views_seed=seeds.views)
        return kind(plan, env, agent, replay, perception, ledger, seeds, graph, on_hang)
