"""Builders for the parts of a session: environment, replay and perception. Evaluation and the freeze use them too."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seer_edge.config.plan import BytePlan
from seer_edge.envs import EnvError
from seer_edge.envs.actions import Actions
from seer_edge.envs.guarded import Guarded, open_guarded
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import FramePerception, LatentPerception, Perception
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.block_index import BlockIndex
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.convert import Progress
from seer_runtime.replay.replay import Replay, ReplayConversion
from seer_runtime.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from seer_runtime.replay.storage import FixedRows, Storage
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.system.state import StateError

MAX_ROWS_PER_STEP = 3
"""The step's row, a final row if the episode was truncated, and a final row if resuming cut an episode short."""

OnHang = Callable[[str], object]
"""Called on the watchdog's thread with the reason when the environment does not answer. It must not return."""


@dataclass(frozen=True)
class Seeds:
    """One seed per random stream, all derived from the run's seed."""

    env: int
    agent: int
    replay: int
    views: int
    exploration: int

    @classmethod
    def of(cls, seed: int) -> "Seeds":
        """Derive the seeds of a run."""
        return cls(*(int(word) for word in np.random.SeedSequence(seed).generate_state(5)))

    def env_from(self, timestep: int) -> int:
        """Return the seed of an environment that is built at `timestep`.

        It depends on the step, so that an environment that is built again does not repeat its first episode.
        """
        return int(np.random.SeedSequence((self.env, timestep)).generate_state(1)[0]) if timestep else self.env


@dataclass(frozen=True)
class LatentPhase:
    """Everything that a session needs to change its replay from frames to latents, with all memory reserved."""

    graph: bytes  # ONNX, of the frozen encoder
    perception: LatentPerception
    conversion: ReplayConversion
    progress: Progress | None = None


def new_ledger(plan: BytePlan) -> Ledger:
    """Return an empty ledger with the run's caps on observations and workspace."""
    return Ledger({Line.OBSERVATIONS: plan.config.mem_budget_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})


def open_training_env(plan: BytePlan, seeds: Seeds, on_hang: OnHang | None, timestep: int) -> Guarded:
    """Build the training environment of a session that is at `timestep`. Raises EnvironmentFailedError."""
    return open_env(plan, seed=seeds.env_from(timestep), training=True, on_hang=on_hang, first_step=timestep)


@contextlib.contextmanager
def closed_on_failure(env: Guarded) -> Iterator[None]:
    """Close the environment of a session that cannot begin."""
    try:
        yield
    except BaseException:
        env.close()
        raise


def open_env(plan: BytePlan, *, seed: int, training: bool, on_hang: OnHang | None, first_step: int = 0) -> Guarded:
    """Build the run's environment behind checks; with `on_hang`, also behind a watchdog.

    `first_step` is the agent step at which it starts, for messages.

    Raises EnvironmentFailedError if it cannot be built, because the plan was made with the same environment.
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
            first_step=first_step,
        )
    except EnvError as error:
        raise EnvironmentFailedError(str(error)) from error


def build_replay(plan: BytePlan, ledger: Ledger, seed: int, *, latents: bool) -> Replay:
    """Build an empty replay in a new arena: of latents with `latents`, else of frames."""
    config, settings = plan.config, plan.config.settings
    actions = plan.env.actions
    codec = plan.latent_codec(ledger) if latents else plan.frame_codec()
    stack = 1 if latents else settings.stack
    arena = Arena(plan.arena_bytes, ledger)
    storage: Storage = FixedRows(arena, codec)
    if config.compact:
        storage = BlockRows(arena, codec, BlockIndex(plan.row_limit, ledger), stack=stack, ledger=ledger)
    store = RowStore(
        storage,
        stack=stack,
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
        spare_rows=MAX_ROWS_PER_STEP if config.pipeline else 0,
    )


def check_actions(replay: Replay, actions: Actions) -> None:
    """Raise StateError if a row of `replay` holds an action that is not among `actions`."""
    if not actions.holds(replay.store.held_columns()["action"]):
        raise StateError(f"the replay holds actions outside the environment's {actions}")


def new_perception(
    plan: BytePlan, encoder: OnnxEncoder | None, ledger: Ledger, *, views_seed: int | None = None
) -> Perception:
    """Build a perception with a new frame stack, which counts as workspace.

    With `encoder` it perceives latents, else frames. Without `views_seed` its observations cannot be stored.
    """
    depth, shape = plan.config.settings.stack, plan.env.frame_shape
    stack = FrameStack(depth, shape, ledger.allocate(Line.WORKSPACE, (depth, *shape), np.uint8))
    if encoder is None:
        return FramePerception(stack, plan.crop, ledger)
    return latent_perception(plan, stack, encoder, ledger, views_seed=views_seed)


def latent_perception(
    plan: BytePlan, stack: FrameStack, encoder: OnnxEncoder, ledger: Ledger, *, views_seed: int | None
) -> LatentPerception:
    """Build the perception that encodes an existing `stack` with the frozen encoder."""
    augmentations = 0 if views_seed is None else plan.config.augmentations
    rng = np.random.default_rng(views_seed or 0)
    return LatentPerception(stack, plan.crop, encoder, ledger, augmentations=augmentations, rng=rng)
