"""Tests of the memory of a conversion: no second buffer, no cap exceeded, and a correct ledger afterwards."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec, latent_codec
from seer_runtime.replay.convert import Conversion, conversion_bytes, rotate_rows
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.samplers import UniformSampler
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, BudgetError, Ledger, Line
from tests.runtime.naive_replay import NaiveReplay, assert_agrees, hash_encoder, ledger_of

FRAME = (84, 84)
FRAME_BYTES = 7_056


def _filled(capacity: int, rows: int, frame: tuple[int, ...] = FRAME) -> tuple[RowStore, Ledger]:
    size_bytes = capacity * frame_codec(frame).row_bytes
    ledger = ledger_of(size_bytes)
    store = RowStore(FixedRows(Arena(size_bytes, ledger), frame_codec(frame)), stack=4, ledger=ledger)
    image = np.random.default_rng(0).integers(0, 256, frame, np.uint8)
    for step in range(rows):
        image[0, 0] = step % 256
        store.append(image, 0, 0.0, terminated=step % 100 == 99, truncated=False)
    return store, ledger


@pytest.mark.integration
@pytest.mark.parametrize(
    "latent",
    [("float32", 576), ("float16", 576), ("uint8", 576), ("uint4", 576), ("float32", 1_764), ("float32", 3_136)],
)
@pytest.mark.parametrize("rows", [2_000, 2_840, 3_700])  # partly filled, exactly full, wrapped
def test_conversion_allocates_no_second_buffer(latent: tuple[str, int], rows: int) -> None:
    store, ledger = _filled(2_840, rows)
    arena = store.arena
    assert arena.size_bytes > 20_000_000
    replay = Replay(
        store,
        UniformSampler(store),
        batch_size=4,
        n_step=3,
        gamma=0.9,
        rng=np.random.default_rng(0),
        ledger=ledger,
    )
    name, width = latent
    out = np.zeros((64, width), np.float32)
    peaks: list[int] = []

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        peaks.append(ledger.held_bytes(Line.OBSERVATIONS))
        out[: len(stacks)] = stacks[:, -1, 0, 0, None]
        return out[: len(stacks)]

    before = ledger.held_bytes(Line.WORKSPACE)
    codec = latent_codec(name, (width,), 1, ledger)
    codec.calibrate([np.full((1, width), value, np.float32) for value in (0, 255)])
    own_bytes = ledger.held_bytes(Line.WORKSPACE) - before
    tracemalloc.start()
    try:
        kept = replay.convert(codec, encode)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept > 1_000
    assert peak < 3_000_000
    assert set(peaks) == {arena.size_bytes}
    assert ledger.peak_bytes(Line.OBSERVATIONS) == arena.size_bytes == ledger.cap_bytes(Line.OBSERVATIONS)
    assert ledger.peak_bytes(Line.WORKSPACE) <= WORKSPACE_CAP_BYTES
    assert (
        ledger.held_bytes(Line.WORKSPACE) == 4 * width * 4 + own_bytes
    )  # a slice of latents, which is the whole batch of 4
    assert store.storage.data.base is not None
    assert np.shares_memory(store.storage.data, arena.bytes)
    newest = np.array([store.appended - 1])
    got = np.zeros((1, width), np.float32)
    store.gather(newest, store.codec.plain(1), got)
    half_a_step = {"uint8": 0.75, "uint4": 8.5}.get(name, 0.0)
    assert (np.abs(got - (rows - 1) % 256) <= half_a_step).all()


def test_conversion_releases_its_workspace() -> None:
    store, ledger = _filled(100, 130)
    before = ledger.held_bytes(Line.WORKSPACE)
    Conversion(store, latent_codec("float32", (50,)), np.random.default_rng(0), ledger).run(hash_encoder(50))
    assert ledger.held_bytes(Line.WORKSPACE) == before
    assert ledger.peak_bytes(Line.WORKSPACE) == before + conversion_bytes(4, FRAME_BYTES, FRAME_BYTES, 1)
    assert ledger.held_bytes(Line.COLUMNS) == sum(array.nbytes for array in store.columns.arrays())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.999])
def test_conversion_without_enough_workspace_leaves_store_and_ledger_unchanged(share: float) -> None:
    """The shares make the first, a middle or the last allocation fail."""
    size_bytes, log = 30 * 8, NaiveReplay(30, 4, (2, 4))
    ledger = Ledger({Line.OBSERVATIONS: size_bytes, Line.WORKSPACE: int(share * conversion_bytes(4, 8, 8, 1))})
    store = RowStore(FixedRows(Arena(size_bytes, ledger), frame_codec((2, 4))), stack=4, ledger=ledger)
    rng = np.random.default_rng(0)
    for step in range(50):
        frame = rng.integers(0, 256, (2, 4), np.uint8)
        log.step(frame, step, 1.0, terminated=step % 20 == 19, truncated=False)
        store.append(frame, step, 1.0, terminated=step % 20 == 19, truncated=False)
    before = {line: ledger.held_bytes(line) for line in Line}
    with pytest.raises(BudgetError, match="workspace"):
        Conversion(store, latent_codec("float32", (1,)), np.random.default_rng(0), ledger).run(hash_encoder(1))
    assert_agrees(store, log, n=3, gamma=0.9)
    assert {line: ledger.held_bytes(line) for line in Line} == before


def test_latent_larger_than_the_arena_is_rejected_without_changes() -> None:
    store, ledger = _filled(4, 4, frame=(2, 4))
    before, held = store.arena.bytes.copy(), {line: ledger.held_bytes(line) for line in Line}
    with pytest.raises(ValueError, match="a latent row of 36 bytes does not fit into an arena of 32 bytes"):
        Conversion(store, latent_codec("float32", (9,)), np.random.default_rng(0), ledger).run(hash_encoder(9))
    np.testing.assert_array_equal(store.arena.bytes, before)
    assert {line: ledger.held_bytes(line) for line in Line} == held


@pytest.mark.parametrize("seed", range(150))
def test_rotation_equals_numpy_roll(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, width, buffer_rows = int(rng.integers(1, 40)), int(rng.integers(1, 9)), int(rng.integers(1, 50))
    shift = int(rng.integers(0, count + 1))
    memory = rng.integers(0, 256, (count + 2, width), np.uint8)
    edges, rows = memory[[0, -1]].copy(), memory[1:-1]
    wanted = np.roll(rows, -shift, axis=0)
    rotate_rows(rows, shift, np.zeros((buffer_rows, width), np.uint8))
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(memory[[0, -1]], edges)


def test_rotation_allocates_no_memory() -> None:
    rows, buffer = np.zeros((1_000, 5_000), np.uint8), np.zeros((3, 5_000), np.uint8)
    tracemalloc.start()
    try:
        rotate_rows(rows, 333, buffer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000
