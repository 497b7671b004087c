"""A replay under test and its naive model, which receive the same random steps."""

import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.block_index import BlockIndex, block_workspace_bytes, index_bytes
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.codecs import LATENT_CODECS, Codec, frame_codec, latent_codec
from seer_runtime.replay.replay import NothingToSampleError, Observations, Replay
from seer_runtime.replay.samplers import PrioritizedSampler, UniformSampler
from seer_runtime.replay.storage import FixedRows, Storage
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State
from tests.runtime.naive_blocks import NaiveBlocks
from tests.runtime.naive_replay import NaiveReplay, assert_agrees, hash_encoder, ledger_of

GAMMA = 0.9
POISON = 77
ENDINGS = ("terminated", "truncated", "interrupted", "lost life")


def _storage(codec: Codec, size_bytes: int, limit: int | None, stack: int, ledger: Ledger) -> Storage:
    """Return a storage in a new arena: of compressed blocks with a `limit` of rows, else of rows of a fixed size."""
    arena = Arena(size_bytes, ledger)
    if limit is None:
        return FixedRows(arena, codec)
    return BlockRows(arena, codec, BlockIndex(limit, ledger), stack=stack, ledger=ledger)


@dataclass
class Pair:
    """A replay and its naive log. `draws` is the replay's generator. `rng` generates frames, actions and rewards."""

    store: RowStore
    replay: Replay
    log: NaiveReplay
    ledger: Ledger
    draws: np.random.Generator
    rng: np.random.Generator
    codec_bytes: int = 0  # workspace bytes of the codec
    limit: int | None = None  # capacity of the index of compressed blocks in rows, or None for rows of a fixed size
    changing: float = 1.0  # fraction of pixels that differ between a frame and the next one
    frames: Iterator[NDArray[np.uint8]] | None = None  # frames to play instead of random ones

    @classmethod
    def build(
        cls,
        *,
        capacity: int,
        stack: int,
        n: int,
        frame: tuple[int, ...] = (2, 4),
        crop: tuple[int, int] | None = None,
        batch: int = 3,
        slack_bytes: int = 0,
        vector: bool = False,
        prioritized: bool = False,
        seed: int = 0,
        limit: int | None = None,
        changing: float = 1.0,
    ) -> "Pair":
        """Build an arena of `capacity` rows and `slack_bytes`. With `limit`, it holds compressed blocks of rows."""
        codec = frame_codec(frame, crop)
        size_bytes = capacity * codec.row_bytes + slack_bytes
        ledger = ledger_of(size_bytes)
        store = RowStore(
            _storage(codec, size_bytes, limit, stack, ledger),
            stack=stack,
            ledger=ledger,
            action_shape=(2,) if vector else (),
            action_dtype=np.float32 if vector else np.int32,
        )
        draws, rng = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        sampler = PrioritizedSampler(store, ledger) if prioritized else UniformSampler(store)
        replay = Replay(store, sampler, batch_size=batch, n_step=n, gamma=GAMMA, rng=draws, ledger=ledger)
        if limit is None:
            log = NaiveReplay(capacity, stack, frame, crop)
        else:
            log = NaiveBlocks(size_bytes, limit, stack, frame, crop)
        return cls(store, replay, log, ledger, draws, rng, limit=limit, changing=changing)

    # --- steps ---

    def frame(self) -> NDArray[np.uint8]:
        """Return the next one of `frames`, or the newest frame with `changing` of its pixels changed."""
        if self.frames is not None:
            return next(self.frames)
        noise = self.rng.integers(0, 256, self.log.frame, np.uint8)
        if self.changing == 1.0 or not self.log.rows or not self.log.rows[-1][0].frames:
            return noise
        before = self.log.rows[-1][0].frames[-1]
        return np.where(self.rng.random(self.log.frame) < self.changing, noise, before)

    def stored(self, row: int) -> NDArray[Any]:
        """Return the observation that a run would append for `row`: its frame, or latents of K random crops."""
        if self.log.encode is None:
            newest: NDArray[np.uint8] = self.log.stack(row)[-1]
            return newest
        augmentations = self.store.codec.shape[0]
        self.log.offsets[row] = self.log.draw_crops(self.rng, augmentations)
        return np.stack([self.log.latent(row, k) for k in range(augmentations)])

    def step(self, *, terminated: bool = False, truncated: bool = False) -> None:
        action: Any = (
            self.rng.random(2, np.float32) if self.store.action_shape else self.rng.integers(18, dtype=np.int32)
        )
        reward = float(self.rng.integers(-8, 9)) / 4
        row = self.log.step(self.frame(), action, reward, terminated=terminated, truncated=truncated)
        self.replay.append(self.stored(row), action, reward, terminated=terminated, truncated=truncated)

    def final(self) -> None:
        self.replay.append_final(self.stored(self.log.final(self.frame())))

    def lose_life(self) -> None:
        """Terminate the episode and continue its scene."""
        self.step(terminated=True)
        self.log.continue_scene()
        self.replay.continue_scene()

    def interrupt(self) -> None:
        if self.log.running:
            self.log.interrupt()
            self.replay.interrupt(self.stored(self.log.final(self.frame())))
        else:
            appended = self.store.appended
            self.log.interrupt()
            self.replay.interrupt(np.zeros(self.store.codec.shape, self.store.codec.dtype))
            assert self.store.appended == appended

    def episode(self, length: int, ending: str) -> None:
        """Play `length` steps. `ending` is terminated, lost life, truncated, interrupted or running."""
        for _ in range(length - 1):
            self.step()
        if ending == "lost life":
            self.lose_life()
            return
        self.step(terminated=ending == "terminated", truncated=ending == "truncated")
        if ending == "truncated":
            self.final()
        elif ending == "interrupted":
            self.interrupt()

    def play(self, rows: int, endings: Sequence[str] = ENDINGS) -> None:
        """Play episodes of random lengths and endings for at least `rows` rows, then six steps of a running episode."""
        goal = len(self.log.rows) + rows
        while len(self.log.rows) < goal:
            self.episode(int(self.rng.choice([1, 2, 3, 9, 40])), str(self.rng.choice(endings)))
        self.episode(6, "running")

    # --- saving and reloading ---

    def reload(self, capacity: int, *, slack_bytes: int = 0, limit: int | None = None) -> None:
        """Save the replay to a file and restore it in a new one with an arena of `capacity` rows and `slack_bytes`."""
        held, state, old = self.log.held(), self.replay.state(), self.store
        size_bytes = capacity * old.codec.row_bytes + slack_bytes
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay.safetensors"
            write_tensors(path, state.arrays)
            values = json.loads(json.dumps(state.values))
            self.ledger, self.draws = ledger_of(size_bytes), np.random.default_rng(0)
            self.store = RowStore(
                _storage(self._uncalibrated(old.codec), size_bytes, limit, old.stack, self.ledger),
                stack=old.stack,
                ledger=self.ledger,
                action_shape=old.action_shape,
                action_dtype=old.action_dtype,
            )
            prioritized = isinstance(self.replay.sampler, PrioritizedSampler)
            sampler = PrioritizedSampler(self.store, self.ledger) if prioritized else UniformSampler(self.store)
            self.replay = Replay(
                self.store,
                sampler,
                batch_size=self.replay.batch_size,
                n_step=self.replay.n_step,
                gamma=GAMMA,
                rng=self.draws,
                ledger=self.ledger,
            )
            with open_tensors(path) as tensors:
                dropped = self.replay.restore(values, tensors)
        if isinstance(self.log, NaiveBlocks):
            assert limit is not None
            self.log.resize(size_bytes, limit)
            lost = len(held) - len(self.log.held())
        else:
            lost = max(len(held) - capacity, 0)
            self.log.lose(held[:lost], capacity)
        assert dropped == lost
        self.limit = limit
        if (size_bytes, self.store.capacity) == (old.arena.size_bytes, old.capacity):
            self._check_state(state)

    def _check_state(self, before: State) -> None:
        """Check that the replay has the state `before` again."""
        again = self.replay.state()
        assert again.values == before.values
        for name, array in before.arrays.items():
            np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)

    def _uncalibrated(self, codec: Codec) -> Codec:
        """Return a new codec of the same kind as `codec`, without its calibration."""
        if self.log.encode is None:
            return codec
        before = self.ledger.held_bytes(Line.WORKSPACE)
        made = latent_codec(codec.name, codec.view_shape, codec.shape[0], self.ledger)
        self.codec_bytes = self.ledger.held_bytes(Line.WORKSPACE) - before
        return made

    # --- the conversion ---

    def convert(self, name: str, shape: tuple[int, ...], augmentations: int = 1) -> list[int]:
        """Convert the replay and the log. Return the ids of the rows kept.

        At each call of the encoder, check its input and that no frame that is still needed was overwritten.
        """
        log, store, encode = self.log, self.store, hash_encoder(*shape)
        before = self.ledger.held_bytes(Line.WORKSPACE)
        codec = latent_codec(name, shape, augmentations, self.ledger)
        self.codec_bytes = self.ledger.held_bytes(Line.WORKSPACE) - before
        seen = (
            encode(self.rng.integers(0, 256, (5, *store.observation_shape), np.uint8))
            if LATENT_CODECS[name].calibrated
            else None
        )
        if seen is not None:
            codec.calibrate([seen[:2], seen[2:]])
        arena, address = store.arena, store.arena.bytes.ctypes.data
        latent_capacity = arena.size_bytes // codec.row_bytes
        pixel_rows, held = [log.stack(row)[-1] for row in range(len(log.rows))], log.held()
        whole = [row for row in held if log.stack_is_whole(row)]
        twin = copy.deepcopy(self.draws)
        kept = log.convert(encode, latent_capacity, name, augmentations, twin, seen)
        order = log.encoded if isinstance(log, NaiveBlocks) else kept
        check_frames = self._check_frames if isinstance(log, NaiveBlocks) else self._check_aligned_frames
        shown: list[NDArray[np.uint8]] = []

        def spy(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            shown.extend(batch.copy())
            assert len(shown) % augmentations == 0
            check_frames(order[len(shown) // augmentations :], pixel_rows)
            return encode(batch)

        assert self.replay.convert(codec, spy) == len(kept)
        assert kept == whole[len(whole) - len(kept) :]
        if not isinstance(log, NaiveBlocks):
            assert len(kept) == min(len(whole), latent_capacity)
        assert len(held) - len(whole) <= log.stack_size - 1
        assert len(shown) == len(order) * augmentations
        for index, view in enumerate(shown):
            row, k = order[index // augmentations], index % augmentations
            np.testing.assert_array_equal(view, log.cropped(row, log.offsets[row][k]), err_msg=f"view {k} of row {row}")
        assert store.arena is arena
        assert arena.bytes.ctypes.data == address
        assert self.draws.bit_generator.state == twin.bit_generator.state
        return kept

    def _check_aligned_frames(self, left: list[int], frames: list[NDArray[np.uint8]]) -> None:
        """Check that the frames of the rows `left` are at the end of the arena, while it is converted."""
        arena = self.store.arena
        tail = arena.bytes[arena.size_bytes - len(left) * self.store.codec.row_bytes :].reshape(-1, *self.log.frame)
        for row, frame in zip(left, tail, strict=True):
            np.testing.assert_array_equal(frame, frames[row], err_msg=f"frame of row {row} was overwritten")

    def _check_frames(self, left: list[int], frames: list[NDArray[np.uint8]]) -> None:
        """Check that the stored frames of the rows `left`, and those of their stacks, can still be read."""
        storage, stack = self.store.storage, self.log.stack_size
        assert isinstance(storage, BlockRows)
        rows = np.zeros((8, storage.codec.row_bytes), np.uint8)
        for block in range(storage.oldest_block, storage.open_block):
            if any(block in ((row - stack + 1) // 8, row // 8) for row in left):
                storage._format.unpack(storage._packed(*storage.index[block]), rows.reshape(-1).data, block)
                for place, row in enumerate(range(8 * block, 8 * block + 8)):
                    wanted = frames[row].tobytes()
                    assert rows[place].tobytes() == wanted, f"frame of row {row} was overwritten"

    # --- checks ---

    def check(self) -> None:
        assert_agrees(self.store, self.log, self.replay.n_step, GAMMA)
        storage, workspace_bytes, places_bytes = self.store.storage, 0, 0
        if isinstance(storage, BlockRows):
            workspace_bytes = block_workspace_bytes(storage.codec.row_bytes, self.store.stack)
            places_bytes = index_bytes(storage.capacity)
            self._check_blocks(storage)
        else:
            assert isinstance(storage, FixedRows)
            assert np.shares_memory(storage.data, storage.arena.bytes)
        assert self.ledger.held_bytes(Line.OBSERVATIONS) == self.store.arena.size_bytes
        assert self.ledger.peak_bytes(Line.OBSERVATIONS) == self.ledger.cap_bytes(Line.OBSERVATIONS)
        assert self.ledger.held_bytes(Line.COLUMNS) == sum(array.nbytes for array in self.store.columns.arrays())
        assert self.ledger.held_bytes(Line.INDEX) == places_bytes
        own_bytes = self.replay.slice_buffer.nbytes + self.codec_bytes + workspace_bytes
        assert self.ledger.held_bytes(Line.WORKSPACE) == own_bytes
        assert self.store.codec.clip_rate == self.log.clip_rate()

    def _check_blocks(self, storage: BlockRows) -> None:
        """Check the bytes of the blocks, which leave room for one that is not compressed."""
        assert isinstance(self.log, NaiveBlocks)
        used, blocks = self.log.used_bytes(), storage.open_block - storage.oldest_block
        assert storage.used_bytes == used <= storage.arena.size_bytes - 8 * storage.codec.row_bytes
        assert blocks <= len(storage.index) - 2
        assert storage.bytes_a_row() == (used / (8 * blocks) if blocks else None)

    def predicted_views(self, twin: np.random.Generator, count: int) -> list[tuple[int, ...]]:
        """Return the views that the replay draws next for `count` observations. `twin` is a copy of its generator."""
        if self.log.encode is None:
            return list(self.log.draw_crops(twin, count))
        augmentations = self.store.codec.shape[0]
        if augmentations == 1:
            return [(0,)] * count
        return [(k,) for k in twin.integers(augmentations, size=count).tolist()]

    def check_observations(self, got: Observations, rows: list[int], views: list[tuple[int, ...]]) -> None:
        """Check that `got` decodes correctly twice, in slices of even length, from a poisoned buffer."""
        wanted = [self.log.observation(row, view) for row, view in zip(rows, views, strict=True)]
        for _ in range(2):
            decoded = [observation for part in self._poisoned_slices(got) for observation in part]
            assert len(got) == len(decoded) == len(rows)
            for index, row in enumerate(rows):
                np.testing.assert_array_equal(decoded[index], wanted[index], err_msg=f"row {row}, view {views[index]}")

    def _poisoned_slices(self, got: Observations) -> Iterator[NDArray[Any]]:
        buffer = self.replay.slice_buffer
        buffer[...] = POISON
        lengths = []
        for part in got.slices():
            assert np.shares_memory(part, buffer)
            assert part.shape[1:] == self.store.observation_shape
            assert part.dtype == self.store.codec.dtype
            lengths.append(len(part))
            yield part.copy()
            assert (buffer[len(part) :] == POISON).all()
            buffer[...] = POISON
        assert len(lengths) == -(-len(got) // len(buffer))
        assert max(lengths) - min(lengths) <= 1

    def check_sample(self) -> None:
        """Check the rows, views and windows of one batch, and how far the sample advanced the generator."""
        log, n = self.log, self.replay.n_step
        if all(log.target(row, n, GAMMA) is None for row in log.held()):
            with pytest.raises(NothingToSampleError):
                self.replay.sample()
            return
        before = self.draws.bit_generator.state
        rows = self.replay.draw(self.replay.batch_size).tolist()
        twin = copy.deepcopy(self.draws)
        views = self.predicted_views(twin, len(rows))
        next_views = self.predicted_views(twin, len(rows)) if log.encode is None else views
        positive_views = self.predicted_views(twin, len(rows))
        self.draws.bit_generator.state = before
        batch = self.replay.sample(positives=True)
        assert batch.row_ids.tolist() == rows

        bootstraps = []
        for index, row in enumerate(rows):
            target = log.target(row, n, GAMMA)
            assert target is not None, f"row {row} cannot start a window"
            episode, step = log.rows[row]
            bootstraps.append(row if target.bootstrap is None else target.bootstrap)
            np.testing.assert_array_equal(batch.actions[index], episode.actions[step])
            np.testing.assert_allclose(batch.returns[index], target.n_return, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(batch.discounts[index], target.discount, rtol=1e-6)
        assert batch.positives is not None
        self.check_observations(batch.observations, rows, views)
        self.check_observations(batch.next_observations, bootstraps, next_views)
        self.check_observations(batch.positives, rows, positive_views)
        self.check_observations(batch.observations, rows, views)
        plain = log.center() if log.encode is None else (0,)
        self.check_observations(self.replay.observations(batch.row_ids), rows, [plain] * len(rows))
        assert self.draws.bit_generator.state == twin.bit_generator.state
