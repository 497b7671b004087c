"""Several ways to store replay observations, filled with the same steps and sampled by the same rule.

`membench.py` compares them. Rows count time steps, so a row id means the same step in every store. Rewards and flags
are in `RowStore`'s columns in all stores and are not counted. Actions are not stored. Frames are not cropped.
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs import Environment, Frame
from seer_edge.networks.graph import encoder_graph
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.policy.policy import Policy
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.block_index import BlockIndex
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.codecs import Codec, frame_codec, latent_codec
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.samplers import UniformSampler
from seer_runtime.replay.storage import FixedRows, Ids, Storage
from seer_runtime.replay.store import RowStore
from seer_runtime.replay.windows import n_step_windows
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line

STACK, N_STEP, BATCH, GAMMA = 4, 20, 32, 0.99
ENCODER = "data-efficient"
WARM_UP_BATCHES = 3
CALIBRATION_ROWS = 1_024  # as in `seer_edge.training.freeze`, which would import torch

Pair = tuple[NDArray[Any], NDArray[Any]]
"""Observations and n-th next observations of a batch: uint8 stacks `[B, C, H, W]` or float32 latents `[B, N, L]`."""


# --- steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Row:
    """One time step. The next step overwrites `stack` `[C, H, W]`."""

    frame: Frame
    stack: Frame
    first: bool  # whether it is the first of its episode
    final: bool = False  # whether it is the last frame of a truncated episode, without an action
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


def stack_shape(frame_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape `(C, H, W)` of a stack of frames."""
    return frame_codec(frame_shape).observation_shape(STACK)


def play(env: Environment, seed: int, policy: Policy | None = None) -> Iterator[Row]:
    """Yield steps of `env` under `policy`, or under a random one, without end."""
    shape = env.spec.frame_shape
    stack = FrameStack(STACK, shape, np.zeros((STACK, *shape), np.uint8))
    rng = np.random.default_rng(seed)
    frame, first = env.reset(), True
    while True:
        stacked = stack.push(frame, first=first).reshape(stack_shape(shape))
        if policy is None:
            action = env.spec.actions.sample(rng)
        else:
            action = policy.decide(policy.perception.observe(frame, first=first).input)
        step = env.step(action)
        yield Row(frame, stacked, first, False, step.reward, step.terminated, step.truncated)
        if step.truncated:
            stacked = stack.push(step.frame, first=False).reshape(stack_shape(shape))
            yield Row(step.frame, stacked, False, final=True)
        first = step.terminated or step.truncated
        frame = env.reset() if first else step.frame


# --- stores ----------------------------------------------------------------------------------------------------


class Store:
    """Base class of the stores, with the ring's columns and the sampling of windows.

    A store that does not use a `RowStore` for observations has one with a byte per row for its columns. That byte is
    not counted.
    """

    def __init__(self, name: str, rows: RowStore, ledger: Ledger, seed: int) -> None:
        self.name = name
        self.rows = rows
        self.append_seconds = []
        self.replay = Replay(
            rows,
            UniformSampler(rows),
            batch_size=BATCH,
            n_step=N_STEP,
            gamma=GAMMA,
            rng=np.random.default_rng(seed),
            ledger=ledger,
        )

    bytes_a_row: float
    """Measured bytes of observations per time step."""
    capacity: int
    """Time steps within the budget."""
    append_seconds: list[float]
    """Duration of each append."""

    def append(self, row: Row) -> None:
        """Store one time step, and measure how long it takes."""
        begin = time.perf_counter()
        self._append(row)
        self.append_seconds.append(time.perf_counter() - begin)

    def _append(self, row: Row) -> None:
        stored = self._stored(row)
        if row.final:
            self.replay.append_final(stored)
        else:
            self.replay.append(stored, 0, row.reward, terminated=row.terminated, truncated=row.truncated)

    def _stored(self, row: Row) -> NDArray[Any]:
        """Return the observation for the row store. Called before the row is appended."""
        raise NotImplementedError

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Return the observations of both ids `[B]`, valid until the next call."""
        raise NotImplementedError

    def sample(self) -> Pair:
        """Sample a batch of windows uniformly. Raises NothingToSampleError where no window fits."""
        ids = self.replay.draw(BATCH)
        return self.fetch(ids, n_step_windows(self.rows, ids, N_STEP, GAMMA).bootstrap_ids)


NO_OBSERVATION = np.zeros((1, 1), np.uint8)


def columns_only(capacity: int, stack: int) -> tuple[RowStore, Ledger]:
    """Return a row store of `capacity` rows that serves for its columns only, and its ledger."""
    ledger = Ledger({})
    return RowStore(FixedRows(Arena(capacity, ledger), frame_codec((1, 1))), stack=stack, ledger=ledger), ledger


class SharedStacks(Store):
    """One stack per row. The next observation is the stack of a later row."""

    stacks_a_row = 1

    def __init__(self, name: str, budget_bytes: int, frame_shape: tuple[int, ...], seed: int) -> None:
        shape = stack_shape(frame_shape)
        self.capacity = budget_bytes // (self.stacks_a_row * math.prod(shape))
        super().__init__(name, *columns_only(self.capacity, stack=1), seed)
        self.stacks: Frame = np.zeros((self.capacity, *shape), np.uint8)
        self.bytes_a_row = self.stacks_a_row * self.stacks.nbytes / self.capacity
        self._out: Frame = np.empty((2, BATCH, *shape), np.uint8)

    def _stored(self, row: Row) -> NDArray[Any]:
        self.stacks[self.rows.slot(self.rows.appended)] = row.stack
        return NO_OBSERVATION

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Gather the stacks of both ids."""
        return self._take(0, self.stacks, ids), self._take(1, self.stacks, bootstrap_ids)

    def _take(self, half: int, stacks: Frame, ids: Ids) -> Frame:
        out = self._out[half, : len(ids)]
        np.take(stacks, self.rows.slots(ids), axis=0, out=out, mode="clip")
        return out


class TwoStacks(SharedStacks):
    """Two stacks per row, the observation and the next one, as in most libraries."""

    stacks_a_row = 2

    def __init__(self, name: str, budget_bytes: int, frame_shape: tuple[int, ...], seed: int) -> None:
        super().__init__(name, budget_bytes, frame_shape, seed)
        self.next_stacks = np.zeros_like(self.stacks)

    def _stored(self, row: Row) -> NDArray[Any]:
        if not row.first:
            self.next_stacks[self.rows.slot(self.rows.appended - 1)] = row.stack
        return super()._stored(row)

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Gather the stacks. The n-th next observation is the next observation of the window's last step."""
        observations = self._take(0, self.stacks, ids)
        next_observations = self._take(1, self.next_stacks, bootstrap_ids - 1)
        nothing_next = bootstrap_ids == ids
        next_observations[nothing_next] = observations[nothing_next]
        return observations, next_observations


class CompressedFrames(Store):
    """Each frame once, as an LZ4 block, decompressed when stacks are gathered."""

    def __init__(self, name: str, budget_bytes: int, frame_shape: tuple[int, ...], seed: int, *, rows: int) -> None:
        import lz4.block

        super().__init__(name, *columns_only(rows, STACK), seed)
        self.budget_bytes = budget_bytes
        self.blobs = [b""] * rows
        self.held_bytes = 0
        self._frame_bytes = math.prod(frame_shape)
        self._compress, self._decompress = lz4.block.compress, lz4.block.decompress
        self._out: Frame = np.empty((2 * BATCH, *stack_shape(frame_shape)), np.uint8)

    @property
    def bytes_a_row(self) -> float:  # type: ignore[override]
        """Mean size of a block in bytes."""
        return self.held_bytes / self.rows.rows

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """Number of blocks of mean size within the budget."""
        return int(self.budget_bytes / self.bytes_a_row)

    @property
    def overhead_bytes(self) -> int:
        """Bytes per row of the Python object and its reference, which are not counted."""
        return sys.getsizeof(b"") + 8

    def _stored(self, row: Row) -> NDArray[Any]:
        blob: bytes = self._compress(row.frame, store_size=False)
        while self.rows.rows == len(self.blobs) or self.held_bytes + len(blob) > self.budget_bytes:
            self._drop_oldest()
        self.blobs[self.rows.slot(self.rows.appended)] = blob
        self.held_bytes += len(blob)
        return NO_OBSERVATION

    def _drop_oldest(self) -> None:
        slot = self.rows.slot(self.rows.oldest)
        self.held_bytes -= len(self.blobs[slot])
        self.blobs[slot] = b""
        self.rows.rows -= 1  # the row store does not know of the limit in bytes

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Decompress each frame of each stack."""
        wanted = np.concatenate([ids, bootstrap_ids])
        slots = self.rows.slots(wanted[:, None] - np.arange(STACK - 1, -1, -1)).tolist()
        ages = self.rows.columns.age[self.rows.slots(wanted)].tolist()
        frames = self._out.reshape(len(self._out), STACK, -1)
        for stack, stack_slots, age in zip(frames, slots, ages, strict=False):
            missing = max(STACK - 1 - age, 0)
            stack[:missing] = 0
            for position in range(missing, STACK):
                block = self._decompress(self.blobs[stack_slots[position]], uncompressed_size=self._frame_bytes)
                stack[position] = np.frombuffer(block, np.uint8)
        return self._out[: len(ids)], self._out[len(ids) : len(wanted)]


class Rows(Store):
    """seer-edge's store: each frame once in one arena, or each latent after the conversion.

    With `most_rows` it compresses up to so many rows (`--store compact`), else it is that of `--store paper`.
    """

    def __init__(
        self, name: str, budget_bytes: int, frame_shape: tuple[int, ...], seed: int, *, most_rows: int | None = None
    ) -> None:
        codec = frame_codec(frame_shape)
        self.budget_bytes = budget_bytes
        self.ledger = Ledger({Line.OBSERVATIONS: budget_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
        storage: Storage
        if most_rows is None:
            storage = FixedRows(Arena(budget_bytes // codec.row_bytes * codec.row_bytes, self.ledger), codec)
        else:
            index = BlockIndex(most_rows, self.ledger)
            storage = BlockRows(Arena(budget_bytes, self.ledger), codec, index, stack=STACK, ledger=self.ledger)
        self.compact = most_rows is not None
        super().__init__(name, RowStore(storage, stack=STACK, ledger=self.ledger), self.ledger, seed)
        self._out = self._new_batches()

    def _new_batches(self) -> NDArray[Any]:
        """Allocate both halves of a batch, because the replay's slices would not be valid at the same time."""
        return np.empty((2 * BATCH, *self.rows.observation_shape), self.rows.codec.dtype)

    @property
    def bytes_a_row(self) -> float:  # type: ignore[override]
        """Mean bytes per row in the arena."""
        return self.rows.bytes_a_row or self.rows.codec.row_bytes

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """Rows of the arena, whose size is a multiple of a frame's (the paper's C_hat = floor(C P / (b L))).

        If they are compressed: as many rows of the mean size as the budget holds.
        """
        return int(self.budget_bytes / self.bytes_a_row) if self.compact else self.rows.capacity

    def _stored(self, row: Row) -> NDArray[Any]:
        return row.frame

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Gather both in one call."""
        both = np.concatenate([ids, bootstrap_ids])
        out = self._out[: len(both)]
        self.rows.gather(both, self.rows.codec.plain(len(both)), out)
        return out[: len(ids)], out[len(ids) :]

    def calibrated(self, name: str, encoder: OnnxEncoder) -> Codec:
        """Return the codec `name`, calibrated on rows of this store without blank frames, as at the freeze."""
        codec = latent_codec(name, encoder.latent_shape, 1, self.ledger)
        ids = np.linspace(self.rows.oldest, self.rows.appended - 1, CALIBRATION_ROWS).astype(np.int64)
        ids = ids[self.rows.stack_is_whole(ids)]
        full = ids[self.rows.columns.age[self.rows.slots(ids)] >= STACK - 1]  # stacks without blank frames
        ids = full if len(full) else ids
        codec.calibrate(map(encoder, self.replay.observations(ids).slices(at_most=MAX_BATCH)))
        return codec

    def convert(self, codec: Codec, encoder: OnnxEncoder) -> int:
        """Convert frames to latents in place; return the number of rows kept."""
        kept = self.replay.convert(codec, encoder)
        self._out = self._new_batches()
        return kept


def new_encoder(spec: EncoderSpec, seed: int) -> OnnxEncoder:
    """Build an untrained encoder, with weights uniform in +-1 / sqrt(fan-in)."""
    rng = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in spec.weight_shapes.items():
        if name.endswith(".weight"):
            bound = 1 / math.sqrt(math.prod(shape[1:]))  # also for its bias, which follows
        weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return OnnxEncoder(encoder_graph(spec, weights), threads=1, ledger=Ledger({}))
