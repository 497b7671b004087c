"""Tests of the workspace for the largest batch of continuous control, by the ledger and by numpy's real allocations."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec, latent_codec
from seer_runtime.replay.convert import CHUNK_STACKS, conversion_bytes
from seer_runtime.replay.replay import SLICE_BYTES, Observations, Replay
from seer_runtime.replay.samplers import UniformSampler
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from tests.runtime.naive_replay import ledger_of

FRAME, CROP, STACK, BATCH = (3, 100, 100), (84, 84), 3, 512
BUDGET_BYTES, FRAME_BYTES, VIEW_BYTES = 30_000_000, 30_000, 3 * 84 * 84
AUGMENTATIONS, LATENT = 4, (2, 50)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, FRAME, np.uint8)


def _full(image: NDArray[np.uint8], crop: tuple[int, int] = CROP) -> tuple[Replay, Ledger]:
    """Return a replay whose ring has wrapped around."""
    ledger = ledger_of(BUDGET_BYTES)
    store = RowStore(
        FixedRows(Arena(BUDGET_BYTES, ledger), frame_codec(FRAME, crop)),
        stack=STACK,
        ledger=ledger,
        action_shape=(6,),
        action_dtype=np.float32,
    )
    rng = np.random.default_rng(0)
    replay = Replay(store, UniformSampler(store), batch_size=BATCH, n_step=1, gamma=0.99, rng=rng, ledger=ledger)
    action = np.zeros(6, np.float32)
    for step in range(1_300):
        image[:, 0, 0] = step % 256
        replay.append(image, action, 1.0, terminated=step % 100 == 49, truncated=False)
    assert store.capacity == store.rows == 1_000
    return replay, ledger


@contextmanager
def _traced(limit_bytes: int) -> Iterator[None]:
    """Context manager: fail if the block allocates more than `limit_bytes` at one time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit_bytes, f"{peak:,} bytes"


def _decode(*several: Observations) -> None:
    for observations in several:
        for part in observations.slices():
            assert 0 < part.nbytes <= SLICE_BYTES


def test_largest_control_batch_stays_inside_the_workspace_cap(image: NDArray[np.uint8]) -> None:
    replay, ledger = _full(image)
    with _traced(150_000):
        batch = replay.sample(positives=True)
        assert batch.positives is not None
        _decode(batch.observations, batch.positives, batch.next_observations)
    assert ledger.held_bytes(Line.WORKSPACE) == replay.slice_buffer.nbytes == 33 * STACK * VIEW_BYTES

    before = ledger.held_bytes(Line.WORKSPACE)
    transient = conversion_bytes(STACK, FRAME_BYTES, VIEW_BYTES, AUGMENTATIONS)
    latent_slice = BATCH * 100 * 4
    columns = 18_750 * (6 * 4 + 6)
    latents = np.ones((CHUNK_STACKS, *LATENT), np.float32)
    with _traced(transient + latent_slice + columns + 150_000):
        kept = replay.convert(latent_codec("float32", LATENT, AUGMENTATIONS), lambda stacks: latents[: len(stacks)])
    assert kept == 998
    assert ledger.peak_bytes(Line.WORKSPACE) == before + transient + latent_slice <= WORKSPACE_CAP_BYTES
    assert ledger.held_bytes(Line.WORKSPACE) == replay.slice_buffer.nbytes == latent_slice
    assert transient < 1_300_000

    with _traced(150_000):
        batch = replay.sample(positives=True)
        assert batch.positives is not None
        _decode(batch.observations, batch.next_observations, batch.positives)
    assert ledger.peak_bytes(Line.OBSERVATIONS) == BUDGET_BYTES


@pytest.mark.parametrize("crop", [CROP, FRAME[1:]])
def test_decoding_a_slice_allocates_no_memory(image: NDArray[np.uint8], crop: tuple[int, int]) -> None:
    """The limit is half the crops of one stack."""
    replay, _ = _full(image, crop)
    observations = replay.sample().observations
    with _traced(STACK * VIEW_BYTES // 2):
        _decode(observations)


@pytest.mark.parametrize("augmentations", [1, 2, 3, 4, 15, 16])
def test_conversion_bytes_equals_the_real_allocation(image: NDArray[np.uint8], augmentations: int) -> None:
    replay, ledger = _full(image)
    shown: list[int] = []

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        shown.append(len(stacks))
        return np.zeros((len(stacks), 1, 2), np.float32)

    before = ledger.held_bytes(Line.WORKSPACE)
    conversion = replay.reserve(latent_codec("float32", (1, 2), augmentations))
    transient = ledger.held_bytes(Line.WORKSPACE) - before
    assert transient == conversion_bytes(STACK, FRAME_BYTES, VIEW_BYTES, augmentations) + BATCH * 2 * 4
    assert ledger.held_bytes(Line.WORKSPACE) <= WORKSPACE_CAP_BYTES
    conversion.cancel()
    assert ledger.held_bytes(Line.WORKSPACE) == before
    kept = replay.convert(latent_codec("float32", (1, 2), augmentations), encode)
    assert sum(shown) == kept * augmentations
    assert max(shown) <= CHUNK_STACKS
