"""Tests of compressed blocks of rows: every place where one can wrap, pending batches, frequencies and bytes."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.block_format import BLOCK_ROWS, packed_row_bytes
from seer_runtime.replay.block_index import (
    BlockIndex,
    block_slots,
    block_workspace_bytes,
    decoded_blocks,
    guaranteed_rows,
    index_bytes,
    newest_that_fit,
)
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.codecs import frame_codec
from seer_runtime.replay.replay import Observations, Replay
from seer_runtime.replay.samplers import PrioritizedSampler, UniformSampler
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import BudgetError, Ledger, Line
from seer_runtime.system.state import State
from tests.runtime.frequencies import assert_frequencies
from tests.runtime.naive_replay import ledger_of
from tests.runtime.replay_pair import Pair

Frame = NDArray[np.uint8]


def _storage(size_bytes: int, width: int, *, rows: int = 400, head: int = 0) -> BlockRows:
    """A storage of frames of 1 x `width` pixels. The first block begins at byte `head` of the ring."""
    ledger = ledger_of(size_bytes)
    arena = Arena(size_bytes, ledger)
    return BlockRows(arena, frame_codec((1, width)), BlockIndex(rows, ledger), stack=1, ledger=ledger, head=head)


def _frames(count: int, width: int, *, equal: bool) -> list[Frame]:
    """Random frames, or groups of eight equal ones."""
    noise = np.random.default_rng(width).integers(0, 256, (count, 1, width), np.uint8)
    return [noise[index // 8 * 8 if equal else index] for index in range(count)]


def _read(storage: BlockRows, begin: int, end: int) -> list[bytes]:
    """Return the rows from `begin` to before `end`."""
    ids = np.arange(begin, end)[:, None]
    out = np.zeros((len(ids), 1, *storage.codec.view_shape), np.uint8)
    storage.gather(ids, storage.codec.plain(len(ids)), out)
    return [row.tobytes() for row in out]


def _fill(storage: BlockRows, frames: list[Frame]) -> None:
    for row, frame in enumerate(frames):
        storage.write(row, frame)


def _wraps(storage: BlockRows) -> Iterator[int]:
    """Yield the number of bytes at the end of the arena of each held block that wraps around."""
    for block in range(storage.oldest_block, storage.open_block):
        position, size = storage.index[block]
        left = storage.arena.size_bytes - position % storage.arena.size_bytes
        if left < size:
            yield left


WIDTHS = [(False, 3), (True, 16)]
"""Blocks of 24 bytes that are not compressed, and compressed blocks of 128 bytes."""


@pytest.mark.parametrize(("equal", "width"), WIDTHS)
def test_a_block_can_wrap_around_at_every_byte(equal: bool, width: int) -> None:
    block_bytes = 8 * width
    frames = _frames(400, width, equal=equal)
    wraps, sizes = set[int](), set[int]()
    for size_bytes in range(2 * block_bytes, 3 * block_bytes):
        storage = _storage(size_bytes, width)
        for row, frame in enumerate(frames):
            oldest = storage.write(row, frame)
            if row % 8 == 7:
                wraps.update(_wraps(storage))
                sizes.add(storage.index[row // 8][1])
                wanted = [frame.tobytes() for frame in frames[oldest : row + 1]]
                assert _read(storage, oldest, row + 1) == wanted
    if equal:
        assert max(sizes) < block_bytes
    else:
        assert sizes == {block_bytes}
    assert wraps == set(range(1, max(sizes)))


@pytest.mark.parametrize(("equal", "width"), WIDTHS)
def test_moved_blocks_are_unchanged_wherever_they_wrap_around(equal: bool, width: int) -> None:
    frames = _frames(160, width, equal=equal)
    before, after = set[int](), set[int]()
    for size_bytes in range(16 * width, 24 * width):
        storage = _storage(size_bytes, width)
        _fill(storage, frames)
        oldest = 8 * storage.oldest_block
        wanted = [frame.tobytes() for frame in frames[oldest:]]
        for distance in (1, size_bytes % 7, 8 * width, size_bytes - storage.used_bytes):
            before.update(_wraps(storage))
            storage.move(storage.index[storage.oldest_block][0], distance)
            after.update(_wraps(storage))
            assert _read(storage, oldest, len(frames)) == wanted
        storage.write(160, frames[0])
        assert _read(storage, oldest, 161) == [*wanted, frames[0].tobytes()]
    largest = max(storage.index.sizes(storage.oldest_block, storage.open_block))
    assert len(before) > largest // 2
    assert len(after) > largest // 2


@pytest.mark.parametrize(("equal", "width"), WIDTHS)
def test_reloaded_blocks_are_unchanged_wherever_they_wrap_around(equal: bool, width: int, tmp_path: Path) -> None:
    """Each arena is reloaded into one of the same size, and into one that is smaller or larger by one byte."""
    size_bytes, count = 20 * width, 53
    frames, wraps, path = _frames(count, width, equal=equal), set[int](), tmp_path / "blocks"
    for head in range(4 * size_bytes - 80, 4 * size_bytes):
        storage = _storage(size_bytes, width, head=head)
        _fill(storage, frames)
        wraps.update(_wraps(storage))
        sizes = storage.index.sizes(storage.oldest_block, storage.open_block)
        rows = count - 8 * storage.oldest_block
        state, layout = storage.state(count, rows), storage.layout(count, rows)
        write_tensors(path, state.arrays)
        for change in (0, 1, -1):
            again = _storage(size_bytes + change, width)
            with open_tensors(path) as tensors:
                kept = again.reload(layout, state.values, tensors)
            assert kept == 8 * newest_that_fit(sizes, size_bytes + change, width) + count % 8
            wanted = [frame.tobytes() for frame in frames[count - kept :]]
            assert _read(again, count - kept, count) == wanted
            if change == 0:
                assert _same(again.state(count, rows), state)
    assert wraps == set(range(1, max(sizes)))


def _same(got: State, wanted: State) -> bool:
    same = got.arrays.keys() == wanted.arrays.keys() and got.values == wanted.values
    return same and all(np.array_equal(got.arrays[name], array) for name, array in wanted.arrays.items())


# --- batches that are drawn before a block is full ------------------------------------------------------------


def _decoded(*several: Observations) -> list[bytes]:
    return [observation.tobytes() for each in several for part in each.slices() for observation in part]


@pytest.mark.parametrize("stack", [1, 3, 12])
@pytest.mark.parametrize("changing", [0.02, 1.0])
def test_a_batch_stays_valid_until_the_next_block_is_full(stack: int, changing: float) -> None:
    pair = Pair.build(
        capacity=40, stack=stack, n=2, frame=(6, 8), batch=24, limit=60, changing=changing, prioritized=True
    )
    pair.play(100)
    given_up = 0
    for _ in range(40):
        batch = pair.replay.sample(positives=True)
        assert batch.positives is not None
        parts = batch.observations, batch.next_observations, batch.positives
        wanted = _decoded(*parts)
        for _ in range(BLOCK_ROWS):
            pair.step()
            assert _decoded(*parts) == wanted
        given_up += int(np.count_nonzero(batch.row_ids < pair.store.oldest))
        pair.step()  # the next batch begins at another row of a block
    assert given_up > 0


def test_a_thread_reads_a_batch_while_rows_are_appended() -> None:
    pair = Pair.build(capacity=64, stack=4, n=1, frame=(16, 16), batch=8, limit=100, changing=0.3)
    pair.play(80)
    interval, differing, reads = sys.getswitchinterval(), [], 0
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(40):
            observations = pair.replay.sample().observations
            wanted, done, running = _decoded(observations), threading.Event(), threading.Event()

            def read(
                observations: Observations = observations,
                wanted: list[bytes] = wanted,
                done: threading.Event = done,
                running: threading.Event = running,
            ) -> None:
                nonlocal reads
                last = False
                while not last:
                    last = done.is_set()
                    got = _decoded(observations)
                    reads += 1
                    running.set()
                    differing.extend(row for row, (is_, was) in enumerate(zip(got, wanted, strict=True)) if is_ != was)

            reader = threading.Thread(target=read)
            reader.start()
            running.wait()
            for _ in range(BLOCK_ROWS):
                pair.step()
            done.set()
            reader.join()
            pair.step()
    finally:
        sys.setswitchinterval(interval)
    assert reads >= 80
    assert differing == []


def test_more_spare_rows_than_a_block_are_rejected() -> None:
    storage = _storage(100, 1)
    assert storage.overwritten_by(BLOCK_ROWS, 3) == 0
    with pytest.raises(ValueError, match="valid for 8 more rows at most, not 9"):
        storage.overwritten_by(BLOCK_ROWS + 1, 3)


# --- frequencies ----------------------------------------------------------------------------------------------


def _replay(prioritized: bool) -> tuple[Replay, list[int]]:
    """A replay of noisy and of equal frames that has given up rows, and the rows that can start a window."""
    size_bytes, codec = 1_000, frame_codec((1, 16))
    ledger = ledger_of(size_bytes)
    storage = BlockRows(Arena(size_bytes, ledger), codec, BlockIndex(90, ledger), stack=3, ledger=ledger)
    store = RowStore(storage, stack=3, ledger=ledger)
    sampler = PrioritizedSampler(store, ledger) if prioritized else UniformSampler(store)
    rng = np.random.default_rng(5)
    replay = Replay(store, sampler, batch_size=16, n_step=2, gamma=0.9, rng=rng, ledger=ledger)
    noise = np.random.default_rng(1).integers(0, 256, (150, 1, 16), np.uint8)
    for row in range(150):
        replay.append(noise[row if row % 20 < 8 else 0], 0, 1.0, terminated=row == 120, truncated=False)
    valid = [*range(store.oldest + 2, 148)]  # the oldest two lack frames of their stacks
    assert 30 < len(valid) == store.rows - 4 < 100
    assert store.oldest % 8 == 0
    return replay, valid


def test_uniform_sampling_draws_held_rows_equally_often() -> None:
    replay, valid = _replay(prioritized=False)
    counts = np.bincount(replay.draw(40_000), minlength=150)
    assert counts.sum() == counts[valid].sum()
    assert_frequencies(counts[valid], np.full(len(valid), 1 / len(valid)))


def test_prioritized_sampling_draws_held_rows_in_proportion() -> None:
    replay, valid = _replay(prioritized=True)
    rows = np.arange(150)
    priorities = np.random.default_rng(3).uniform(0.5, 9.0, 150).astype(np.float32)
    replay.update_priorities(rows, priorities)  # given-up rows among them
    wanted = priorities[valid].astype(np.float64) ** 0.5
    counts = np.bincount(np.concatenate([replay.draw(4) for _ in range(3_000)]), minlength=150)
    assert counts.sum() == counts[valid].sum()
    assert_frequencies(counts[valid], wanted / wanted.sum())
    assert isinstance(replay.sampler, PrioritizedSampler)
    held = np.arange(replay.store.oldest, 150)
    assert replay.sampler._tree.total == pytest.approx((priorities[held].astype(np.float64) ** 0.5).sum())


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 17])
def test_guaranteed_rows_are_those_of_frames_that_do_not_compress(width: int) -> None:
    frames = _frames(80, width, equal=False)
    for size_bytes in range(16 * width, 48 * width, 3):
        storage, fewest = _storage(size_bytes, width), 10**9
        for row, frame in enumerate(frames):
            held = row + 1 - storage.write(row, frame)
            if row >= 48:
                fewest = min(fewest, held)
        assert fewest == guaranteed_rows(size_bytes, width)
    assert guaranteed_rows(8 * width - 1, width) == 0


def test_an_arena_of_less_than_two_blocks_is_rejected() -> None:
    with pytest.raises(ValueError, match="an arena of 79 bytes cannot hold two blocks of 40 bytes"):
        _storage(79, 5)
    _storage(80, 5)


@pytest.mark.parametrize("stack", [1, 2, 4, 8, 9, 10, 40])
@pytest.mark.parametrize("shape", [(1, 1), (84, 84), (3, 100, 100)])
def test_planned_bytes_equal_the_allocation(stack: int, shape: tuple[int, ...]) -> None:
    codec = frame_codec(shape)
    size_bytes = 16 * codec.row_bytes
    ledger = ledger_of(size_bytes)
    for rows in (1, 8, 9, 1_000):
        before = ledger.held_bytes(Line.INDEX)
        index = BlockIndex(rows, ledger)
        assert ledger.held_bytes(Line.INDEX) - before == index_bytes(block_slots(rows)) == 12 * (-(-rows // 8) + 2)
    storage = BlockRows(Arena(size_bytes, ledger), codec, index, stack=stack, ledger=ledger)
    assert storage.capacity == block_slots(1_000) == 1_016
    assert ledger.held_bytes(Line.WORKSPACE) == block_workspace_bytes(codec.row_bytes, stack)
    assert ledger.held_bytes(Line.OBSERVATIONS) == storage.arena.size_bytes == size_bytes
    storage.release()
    assert ledger.held_bytes(Line.WORKSPACE) == 0


def test_a_stack_touches_at_most_the_planned_blocks() -> None:
    for stack in range(1, 60):
        assert decoded_blocks(stack) == max(
            len({row // 8 for row in range(begin, begin + stack)}) for begin in range(8)
        )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_too_little_workspace_leaves_the_ledger_unchanged(share: float) -> None:
    cap_bytes = int(share * block_workspace_bytes(10, 2))
    ledger = Ledger({Line.OBSERVATIONS: 200, Line.WORKSPACE: cap_bytes})
    arena, index = Arena(200, ledger), BlockIndex(100, ledger)
    before = {line: ledger.held_bytes(line) for line in Line}
    with pytest.raises(BudgetError, match="workspace"):
        BlockRows(arena, frame_codec((1, 10)), index, stack=2, ledger=ledger)
    assert {line: ledger.held_bytes(line) for line in Line} == before


@pytest.mark.parametrize("equal", [False, True])
def test_packed_row_bytes_are_those_of_the_store(equal: bool) -> None:
    storage, frames = _storage(3_000, 40, rows=1_000), _frames(48, 40, equal=equal)
    assert storage.bytes_a_row() is None
    _fill(storage, frames)
    assert packed_row_bytes(np.stack(frames).reshape(48, 40)) == storage.bytes_a_row()
    assert (storage.bytes_a_row() == 40) == (not equal)


@settings(derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 80), max_size=40),
    spare_bytes=st.integers(0, 2_000),
)
def test_the_newest_blocks_that_fit_leave_room_for_one_more(sizes: list[int], spare_bytes: int) -> None:
    count = newest_that_fit(np.array(sizes, np.uint32), 160 + spare_bytes, 10)
    assert sum(sizes[len(sizes) - count :]) <= 80 + spare_bytes
    if count < len(sizes):
        assert sum(sizes[len(sizes) - count - 1 :]) > 80 + spare_bytes


def test_appending_and_reading_allocate_no_second_buffer() -> None:
    """The arena is one allocation that never moves. Its bytes are all that blocks use."""
    pair = Pair.build(capacity=50, stack=4, n=1, frame=(6, 8), slack_bytes=5, limit=100, changing=0.05)
    arena = pair.store.arena
    address = arena.bytes.ctypes.data
    pair.play(200)
    pair.check()
    pair.convert("uint8", (1, 6))
    pair.play(200)
    pair.check()
    assert pair.store.arena is arena
    assert arena.bytes.ctypes.data == address
    assert arena.bytes.base is None
    assert pair.ledger.peak_bytes(Line.OBSERVATIONS) == 50 * 48 + 5
