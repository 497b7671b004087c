"""The bytes and rows of a run's replay, for both stores, as part of its plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seer_edge.config.config import TrainConfig
from seer_edge.config.real_time import FEED_FRAMES_MAX, FEED_FRAMES_MIN, SPARE_BYTES
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.block_format import BLOCK_ROWS
from seer_runtime.replay.block_index import block_slots, block_workspace_bytes, guaranteed_rows, index_bytes
from seer_runtime.replay.codecs import Codec, FrameCodec
from seer_runtime.replay.convert import conversion_bytes
from seer_runtime.replay.convert_blocks import block_conversion_bytes
from seer_runtime.replay.replay import slice_rows
from seer_runtime.replay.store import column_bytes
from seer_runtime.replay.sumtree import tree_bytes
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES

FLOAT_BYTES = 4
MIN_ROW_BYTES, PLANNED_ROWS = 64, 100_000
"""Compressed rows are planned for at least this size above so many rows, which bounds their columns and priorities."""
FINAL_ROWS_SHARE = 8
"""A run may have one row more than steps for so many steps: the last observation of an episode that was cut off."""
LATENT_RATIO = 0.5
"""Size of compressed uint8 latents as a fraction of uncompressed ones: 0.20 to 0.53 on eight games (decision 0016)."""


@dataclass(frozen=True)
class ReplayBytes:
    """Rows and bytes of a replay. With --store compact the capacities are those that no content can reduce."""

    frame_capacity: int  # C
    latent_capacity: int  # C_hat
    row_limit: int  # the largest number of rows with --store compact, else 0
    columns_bytes: int
    priorities_bytes: int
    index_bytes: int
    workspace_bytes: int
    feed_frames: int  # of the workspace, which wait for the learner in real time


def plan_replay(
    config: TrainConfig, env: EnvSpec, frames: FrameCodec, latents: Codec, codec_bytes: int, used: Sequence[Codec]
) -> ReplayBytes:
    """Return the rows and bytes of the replay.

    `codec_bytes` is the workspace of the codec of latents. `used` has the codecs of the rows from now on, in order.

    Raises BadInputError if the budget cannot hold one batch of windows, or if the workspace is larger than its cap.
    """
    budget, row_limit, index = config.mem_budget_bytes, 0, 0
    _check_room(config, frames, used)
    if config.compact:
        capacity, latent_capacity = (guaranteed_rows(budget, codec.row_bytes) for codec in (frames, latents))
        guaranteed = max(capacity if codec is frames else latent_capacity for codec in used)
        row_limit = max(guaranteed, budget // MIN_ROW_BYTES, PLANNED_ROWS)
        if config.source is None and config.demos is None:  # otherwise there are rows of other steps
            steps = config.total_timesteps
            row_limit = min(row_limit, max(steps + steps // FINAL_ROWS_SHARE, _batch_rows(config)))
        slots = tree_slots = block_slots(row_limit)
        index = index_bytes(slots)
    else:
        capacity = budget // frames.row_bytes
        latent_capacity = capacity * frames.row_bytes // latents.row_bytes
        counts = [capacity if codec is frames else latent_capacity for codec in used]
        slots, tree_slots = sum(counts), max(counts)  # the conversion holds old and new columns at once
    workspace = _workspace(config, frames, latents, codec_bytes, used)
    feed = 0 if config.hz is None else _feed_frames(workspace, frames.row_bytes)
    workspace += feed * frames.row_bytes
    _check_workspace(config, env, workspace)
    return ReplayBytes(
        frame_capacity=capacity,
        latent_capacity=latent_capacity,
        row_limit=row_limit,
        columns_bytes=slots * column_bytes(env.actions.shape, env.actions.dtype),
        priorities_bytes=tree_bytes(tree_slots) if config.replay == "prioritized" else 0,
        index_bytes=index,
        workspace_bytes=workspace,
        feed_frames=feed,
    )


def _feed_frames(other_bytes: int, frame_bytes: int) -> int:
    """Return the frames of the queue to the learner. It fills the workspace that others do not need."""
    fits = (WORKSPACE_CAP_BYTES - SPARE_BYTES - other_bytes) // frame_bytes
    return min(max(fits, FEED_FRAMES_MIN), FEED_FRAMES_MAX)


def _workspace(config: TrainConfig, frames: FrameCodec, latents: Codec, codec_bytes: int, used: Sequence[Codec]) -> int:
    """Return the largest workspace: during an evaluation, or at the freeze (`freeze`, `LatentPerception`).

    The queue of a run in real time is not in it.
    """
    settings = config.settings
    stack = settings.stack * frames.row_bytes
    view_bytes, latent = math.prod(frames.view_shape), math.prod(latents.view_shape) * FLOAT_BYTES
    view = settings.stack * view_bytes
    views = config.augmentations + (0 if frames.crop.whole else 1)
    of_frames = slice_rows(settings.batch_size, view) * view + view
    of_latents = (slice_rows(settings.batch_size, latent) + MAX_BATCH) * latent + views * (view + latent) + codec_bytes
    conversion = conversion_bytes(settings.stack, frames.row_bytes, view_bytes, config.augmentations)
    if config.compact:
        of_frames += block_workspace_bytes(frames.row_bytes, settings.stack)
        of_latents += block_workspace_bytes(latents.row_bytes, 1)
        conversion = block_conversion_bytes(settings.stack, view_bytes, config.augmentations, latents.row_bytes)
    # An evaluation has a perception of its own. In real time it is that of the control thread, which always has one.
    other = 0
    if config.hz is not None:
        other = stack + view
        of_latents += MAX_BATCH * latent  # its encoder
    moments = []
    if frames in used:
        moments.append(stack + of_frames + stack + view)
    if latents in used:
        moments.append(stack + of_latents + stack + view + latent)
    if len(used) == 2:
        moments.append(stack + of_frames + of_latents + conversion + other)
    return max(moments)


def _check_workspace(config: TrainConfig, env: EnvSpec, workspace_bytes: int) -> None:
    """Raise BadInputError if the workspace is larger than its cap."""
    if workspace_bytes > WORKSPACE_CAP_BYTES:
        shown = "x".join(map(str, env.frame_shape))
        raise BadInputError(
            f"--resolution {env.frame_shape[-1]}: stacks of {config.settings.stack} frames of {shown} need "
            f"{workspace_bytes:,} B of workspace, and the cap is {WORKSPACE_CAP_BYTES:,}; give a smaller one"
        )


def _check_room(config: TrainConfig, frames: FrameCodec, used: Sequence[Codec]) -> None:
    """Raise BadInputError if the budget cannot hold the rows of one batch, encoded by each of the codecs `used`."""
    settings, rows = config.settings, _batch_rows(config)

    def needed_bytes(codec: Codec) -> int:
        if config.compact:
            # One block more, for the next one.
            return (-(-rows // BLOCK_ROWS) + 1) * BLOCK_ROWS * codec.row_bytes
        # The arena is a whole number of frames, even in a run that never stores a frame.
        return -(-rows * codec.row_bytes // frames.row_bytes) * frames.row_bytes

    widest = max(used, key=needed_bytes)
    if config.mem_budget_bytes < needed_bytes(widest):
        kind = "frames" if widest is frames else "latents"
        raise BadInputError(
            f"--mem-budget {config.mem_budget_bytes} B: cannot hold one batch of {settings.batch_size} windows of "
            f"{settings.n_step} steps, {rows} {kind}; give at least {needed_bytes(widest)} B, or set a smaller "
            "batch_size or n_step"
        )


def _batch_rows(config: TrainConfig) -> int:
    """Return the rows that one batch of windows needs."""
    settings = config.settings
    return settings.batch_size + settings.n_step + settings.stack - 1


def compact_rows(guaranteed: int, limit: int, expected: int | None, row_bytes: float | None, measured_on: str) -> str:
    """Return the rows that --store compact guarantees, and those `expected` of `row_bytes` bytes a row, if known.

    `limit` is the most rows.
    """
    if guaranteed >= limit:
        return f"{limit:,} rows, the most of this run"
    text = f"at least {guaranteed:,} rows"
    if expected is None:
        return f"{text}; the run shows how many fit"
    most = ", the most of this run," if expected == limit else ""
    return f"{text}, about {expected:,}{most} expected at {row_bytes:,.0f} B ({measured_on})"
