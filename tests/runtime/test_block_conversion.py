"""Tests of the conversion of compressed blocks against the naive model, and of its memory."""

import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay.block_index import block_workspace_bytes, index_bytes
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.codecs import latent_codec
from seer_runtime.replay.convert_blocks import MOVES, BlockConversion, block_conversion_bytes
from seer_runtime.replay.samplers import PrioritizedSampler
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, BudgetError, Line
from tests.runtime.naive_replay import hash_encoder
from tests.runtime.replay_pair import Pair

# Frame shape, crop size, K, codec and latent shape [N, L]: latents that are smaller and larger than compressed frames.
LATENTS: list[tuple[tuple[int, ...], tuple[int, int], int, str, tuple[int, int]]] = [
    ((6, 8), (6, 8), 1, "uint8", (1, 4)),
    ((6, 8), (6, 8), 1, "uint4", (1, 40)),
    ((6, 8), (6, 8), 1, "float32", (1, 5)),
    ((6, 8), (4, 7), 3, "float16", (2, 4)),
    ((3, 5, 4), (3, 3), 4, "uint8", (2, 2)),
    ((3, 5, 4), (5, 4), 17, "uint8", (1, 2)),  # more views than the encoder takes at a time
]


@pytest.mark.parametrize(("frame", "crop", "augmentations", "name", "shape"), LATENTS)
@pytest.mark.parametrize(("stack", "changing"), [(1, 0.0), (4, 0.02), (12, 0.02), (3, 1.0)])
def test_conversion_keeps_the_newest_rows_that_fit(
    frame: tuple[int, ...],
    crop: tuple[int, int],
    augmentations: int,
    name: str,
    shape: tuple[int, int],
    stack: int,
    changing: float,
) -> None:
    pair = Pair.build(
        capacity=50,
        stack=stack,
        n=2,
        frame=frame,
        crop=crop,
        slack_bytes=7,
        prioritized=True,
        limit=100,
        changing=changing,
        seed=stack,
    )
    pair.play(120)
    pair.check()
    priorities = dict(zip(pair.log.held(), _prioritize(pair), strict=True))
    kept = pair.convert(name, shape, augmentations)
    pair.check()
    sampler = pair.replay.sampler
    assert isinstance(sampler, PrioritizedSampler)
    wanted = [priorities[row] for row in kept]
    np.testing.assert_allclose(sampler.priorities(np.array(kept, np.int64)), wanted, rtol=1e-6)
    assert sampler._tree.total == pytest.approx(sum(wanted))
    pair.step()
    pair.step(truncated=True)
    pair.final()
    pair.check()
    pair.play(40)
    pair.check()
    pair.check_sample()


def _prioritize(pair: Pair) -> list[float]:
    """Give each held row another priority; return the values that the tree holds."""
    rows = np.array(pair.log.held())
    pair.replay.update_priorities(rows, (1.0 + rows % 17).astype(np.float32))
    return [float(value) for value in pair.replay.sampler.priorities(rows)]


def test_latents_that_need_more_room_move_over_the_oldest_frames() -> None:
    """Frames in which one pixel changes take few bytes, so the latents of all rows do not fit."""
    pair = Pair.build(capacity=80, stack=4, n=1, frame=(6, 8), limit=600, changing=0.02)
    pair.play(400)
    before = len(pair.log.held())
    moved: list[int] = []

    def move(storage: BlockRows, bottom: int, distance: int) -> None:
        moved.append(distance)
        MOVE(storage, bottom, distance)

    with mock.patch.object(BlockRows, "move", move):
        kept = pair.convert("float32", (1, 20))
    assert 2 < len(moved) <= MOVES
    assert all(distance >= pair.log.size_bytes // MOVES for distance in moved[:-1])
    assert 16 < len(kept) < before / 2
    pair.check()
    pair.play(100)
    pair.check()


@pytest.mark.parametrize("slack", range(0, 384, 48))
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 23])
def test_conversion_of_a_short_replay(rows: int, slack: int) -> None:
    pair = Pair.build(capacity=24, stack=3, n=1, frame=(6, 8), slack_bytes=slack, limit=40)
    for _ in range(rows):
        pair.step()
    pair.convert("float16", (1, 20))
    pair.check()
    pair.play(30)
    pair.check()


def test_latents_of_which_the_arena_holds_two_blocks_keep_one() -> None:
    pair = Pair.build(capacity=32, stack=2, n=1, frame=(6, 8), limit=200, changing=0.02)
    pair.play(100)
    appended = len(pair.log.rows)
    kept = pair.convert("float32", (1, 24))
    # Blocks that became smaller leave room for a second one, at most.
    assert appended % 8 + 8 <= len(kept) <= appended % 8 + 16
    pair.check()
    pair.play(30)
    pair.check()


# --- planted faults ------------------------------------------------------------------------------------------


def _give_up_one_block_less(storage: BlockRows) -> None:
    while storage.used_bytes > storage.arena.size_bytes:
        storage.oldest_block += 1


def _forget_nothing(sampler: PrioritizedSampler) -> None:
    pass


def _drop_encoded_rows(conversion: BlockConversion, missing: int, bottom: int, encoded_from: int) -> int:
    return MAKE_ROOM(conversion, missing, bottom, 10**9)


def _move_without_the_index(storage: BlockRows, bottom: int, distance: int) -> None:
    MOVE(storage, bottom, distance)
    storage.index.shift(storage.oldest_block, storage.open_block, -distance)


def _move_from_below(storage: BlockRows, bottom: int, distance: int) -> None:
    for position in range(bottom, storage.head):
        storage.arena.bytes[(position + distance) % storage.arena.size_bytes] = storage.arena.bytes[
            position % storage.arena.size_bytes
        ]
    storage.index.shift(storage.oldest_block, storage.open_block, distance)
    storage.head += distance


def _keep_old_frames(conversion: BlockConversion, encode: Any, begin: int, end: int, out: Any) -> None:
    ENCODE(conversion, encode, begin, end, out)
    if begin % 8 == 0:
        out[:] = np.roll(out, 1, axis=0)


MAKE_ROOM, MOVE, ENCODE = BlockConversion._make_room, BlockRows.move, BlockConversion._encode
PLANTED: list[tuple[Any, str, Callable[..., Any]]] = [
    (BlockRows, "give_up", _give_up_one_block_less),
    (PrioritizedSampler, "forget", _forget_nothing),
    (BlockConversion, "_make_room", _drop_encoded_rows),
    (BlockRows, "move", _move_without_the_index),
    (BlockRows, "move", _move_from_below),
    (BlockConversion, "_encode", _keep_old_frames),
]


@pytest.mark.parametrize(("owner", "name", "fault"), PLANTED, ids=[fault.__name__ for *_, fault in PLANTED])
def test_model_finds_a_planted_fault(owner: Any, name: str, fault: Callable[..., Any]) -> None:
    def play_all() -> None:
        for latents in LATENTS[1:4]:
            test_conversion_keeps_the_newest_rows_that_fit(*latents, stack=12, changing=0.02)

    with mock.patch.object(owner, name, fault), pytest.raises((AssertionError, ValueError)):
        play_all()


# --- bytes ---------------------------------------------------------------------------------------------------

FRAME, STACK, WIDTH = (84, 84), 4, 576


def _filled(rows: int, *, equal: bool, size_bytes: int = 4_000_000) -> Pair:
    """A replay of frames of 84x84 in 4 MB: as many equal ones as the index holds, or fewer different ones."""
    pair = Pair.build(capacity=0, stack=STACK, n=3, frame=FRAME, slack_bytes=size_bytes, limit=rows)
    image = np.zeros(FRAME, np.uint8) if equal else pair.frame()
    for step in range(rows):
        if not equal:
            image = np.roll(image, 997)
        pair.replay.append(image, 0, 0.0, terminated=step % 100 == 99, truncated=False)
    return pair


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", ["float32", "uint8"])
def test_conversion_allocates_only_the_reserved_bytes(name: str, equal: bool) -> None:
    pair = _filled(1_000 if equal else 600, equal=equal)
    ledger, arena = pair.ledger, pair.store.arena
    address = arena.bytes.ctypes.data
    codec = latent_codec(name, (1, WIDTH), 1, ledger)
    codec.calibrate([np.full((1, WIDTH), value, np.float32) for value in (0, 255)])
    noise = np.random.default_rng(0).random((16, WIDTH), np.float32) * 255
    peaks: list[int] = []

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        peaks.append(ledger.held_bytes(Line.OBSERVATIONS))
        return noise[: len(stacks)]

    held = ledger.held_bytes(Line.WORKSPACE)
    of_codec = held - pair.replay.slice_buffer.nbytes - block_workspace_bytes(FRAME[0] * FRAME[1], STACK)
    conversion = pair.replay.reserve(codec)
    reserved = ledger.held_bytes(Line.WORKSPACE)
    latents = block_workspace_bytes(codec.row_bytes, 1)
    transient = block_conversion_bytes(STACK, FRAME[0] * FRAME[1], 1, codec.row_bytes)
    of_slice = 3 * WIDTH * 4
    assert reserved - held == of_slice + latents + transient
    assert reserved <= WORKSPACE_CAP_BYTES
    tracemalloc.start()
    try:
        kept = conversion.run(encode)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept > 100
    assert len(peaks) >= kept // 8
    # Compressed blocks and the arrays of ids are all that is new.
    assert peak < 3 * 8 * codec.row_bytes + 20_000
    assert set(peaks) == {arena.size_bytes}
    assert pair.store.arena is arena
    assert arena.bytes.ctypes.data == address
    assert ledger.peak_bytes(Line.WORKSPACE) == reserved
    assert ledger.peak_bytes(Line.OBSERVATIONS) == ledger.cap_bytes(Line.OBSERVATIONS) == arena.size_bytes == 4_000_000
    assert ledger.held_bytes(Line.WORKSPACE) == of_codec + of_slice + latents
    assert ledger.held_bytes(Line.INDEX) == index_bytes(pair.store.capacity) == ledger.peak_bytes(Line.INDEX)
    assert ledger.held_bytes(Line.COLUMNS) == ledger.peak_bytes(Line.COLUMNS)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.999])
def test_conversion_without_enough_workspace_leaves_store_and_ledger_unchanged(share: float) -> None:
    """The shares make the first, a middle or the last allocation fail."""
    pair = Pair.build(capacity=30, stack=3, n=1, frame=(6, 8), limit=100, changing=0.02)
    pair.play(60)
    ledger = pair.ledger
    needed = block_workspace_bytes(20, 1) + block_conversion_bytes(3, 48, 1, 20)
    ledger.allocate(
        Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - int(share * needed), np.uint8
    )
    before, arena = {line: ledger.held_bytes(line) for line in Line}, pair.store.arena.bytes.copy()
    with pytest.raises(BudgetError, match="workspace"):
        pair.replay.convert(latent_codec("float32", (1, 5)), hash_encoder(1, 5))
    assert {line: ledger.held_bytes(line) for line in Line} == before
    np.testing.assert_array_equal(pair.store.arena.bytes, arena)
    pair.log.used_bytes()
    pair.check_sample()


def test_latents_too_large_for_the_arena_are_rejected_without_changes() -> None:
    pair = Pair.build(capacity=16, stack=1, n=1, frame=(6, 8), limit=100)
    pair.play(20)
    with pytest.raises(ValueError, match="an arena of 768 bytes cannot hold two blocks of 416 bytes"):
        pair.replay.convert(latent_codec("float32", (1, 13)), hash_encoder(1, 13))
    pair.check()


def test_a_cancelled_conversion_changes_nothing() -> None:
    pair = Pair.build(capacity=30, stack=2, n=1, frame=(6, 8), limit=100, prioritized=True)
    pair.play(50)
    pair.replay.reserve(latent_codec("float32", (1, 5))).cancel()
    pair.check()
    pair.convert("float32", (1, 5))
    pair.check()


def test_progress_counts_the_rows_that_are_encoded() -> None:
    pair = Pair.build(capacity=64, stack=1, n=1, frame=(6, 8), limit=400, changing=0.0)
    for _ in range(203):
        pair.step()
    reported: list[tuple[int, int]] = []
    kept = pair.replay.reserve(latent_codec("float16", (1, 3))).run(
        hash_encoder(1, 3), lambda done, total: reported.append((done, total))
    )
    assert [done for done, _ in reported] == list(range(3 + 8, kept + 1, 8))
    assert {total for _, total in reported} == {203}
