"""Tests of `Observations`: their slices, and which observations of a batch share views."""

from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay import replay
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec, latent_codec
from seer_runtime.replay.replay import Observations, Replay
from seer_runtime.replay.samplers import UniformSampler
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from tests.runtime.frequencies import assert_frequencies
from tests.runtime.naive_replay import ledger_of

ROWS = 40


def _replay(batch: int, *, slice_rows: int) -> Replay:
    """Return a replay of frames `[1, 3]` with crops `[1, 1]`.

    Pixel x of row i is 3 i + x, so a decoded value identifies row and view.
    """
    codec = frame_codec((1, 3), (1, 1))
    ledger = ledger_of(ROWS * codec.row_bytes)
    store = RowStore(FixedRows(Arena(ROWS * codec.row_bytes, ledger), codec), stack=1, ledger=ledger)
    with mock.patch.object(replay, "SLICE_BYTES", slice_rows):
        made = Replay(
            store,
            UniformSampler(store),
            batch_size=batch,
            n_step=1,
            gamma=0.9,
            rng=np.random.default_rng(0),
            ledger=ledger,
        )
    for row in range(ROWS):
        made.append(np.arange(3 * row, 3 * row + 3, dtype=np.uint8)[None], 0, 0.0, terminated=False, truncated=False)
    return made


def _views(observations: Observations, ids: NDArray[np.int64], views_a_row: int = 3) -> list[int]:
    """Return the view of each observation, from its decoded value."""
    decoded = np.concatenate([part.flatten() for part in observations.slices()]).astype(int)
    np.testing.assert_array_equal(decoded // views_a_row, ids)
    views: list[int] = (decoded % views_a_row).tolist()
    return views


def test_frames_next_frames_and_positives_have_independent_crops() -> None:
    made = _replay(3_000, slice_rows=3_000)
    batch = made.sample(positives=True)
    assert batch.positives is not None
    views = [
        _views(batch.observations, batch.row_ids),
        _views(batch.next_observations, batch.row_ids + 1),
        _views(batch.positives, batch.row_ids),
    ]
    counts = np.bincount(np.array([9, 3, 1]) @ np.array(views), minlength=27)
    assert_frequencies(counts, np.full(27, 1 / 27))


def test_latents_of_a_transition_share_one_view_and_positives_have_their_own() -> None:
    made = _replay(3_000, slice_rows=3_000)
    crops = iter(range(3 * ROWS))
    made.convert(latent_codec("float16", (1, 1), 3), lambda stacks: np.array([[[next(crops)]] for _ in stacks], "f4"))
    first = made.store.oldest
    batch = made.sample(positives=True)
    assert batch.positives is not None
    own = _views(batch.observations, batch.row_ids - first)
    assert own == _views(batch.next_observations, batch.row_ids + 1 - first)
    another = _views(batch.positives, batch.row_ids - first)
    assert_frequencies(np.bincount(3 * np.array(own) + another, minlength=9), np.full(9, 1 / 9))


def test_observations_keep_their_views_after_another_sample() -> None:
    made, at_once = _replay(16, slice_rows=5), _replay(16, slice_rows=16).sample(positives=True)
    batch = made.sample(positives=True)
    first, positive = batch.observations, batch.positives
    assert positive is not None
    assert at_once.positives is not None
    wanted = _views(first, batch.row_ids), _views(positive, batch.row_ids)
    assert wanted[0] == _views(at_once.observations, batch.row_ids)
    assert wanted[1] == _views(at_once.positives, batch.row_ids)
    made.sample(positives=True)
    assert (_views(first, batch.row_ids), _views(positive, batch.row_ids)) == wanted
    pairs = [  # decode two sequences alternately through the shared buffer
        (a.ravel().tolist(), b.ravel().tolist())
        for a, b in zip(map(np.copy, first.slices()), map(np.copy, positive.slices()), strict=True)
    ]
    assert [value % 3 for part, _ in pairs for value in part] == wanted[0]
    assert [value % 3 for _, part in pairs for value in part] == wanted[1]


@pytest.mark.parametrize("count", [1, 2, 7, 32, 33, 34, 64, 100, 128])
@pytest.mark.parametrize("slice_rows", [1, 5, 33, 500])
@pytest.mark.parametrize("at_most", [None, 1, 16, 40])
def test_slices_are_few_and_even_and_do_not_depend_on_the_buffer_content(
    count: int, slice_rows: int, at_most: int | None
) -> None:
    made = _replay(128, slice_rows=slice_rows)
    buffer = made.slice_buffer
    assert len(buffer) == min(slice_rows, 128)
    ids = np.arange(count) % ROWS
    before = made.state().values["rng"]
    lengths: list[int] = []
    decoded: list[int] = []
    for part in made.observations(ids).slices(at_most):
        assert np.shares_memory(part, buffer)
        assert part.shape[1:] == (1, 1, 1)
        assert (buffer[len(part) :] == 255).all() or not lengths
        lengths.append(len(part))
        decoded += part.ravel().tolist()
        buffer[...] = 255
    assert decoded == (3 * ids + 1).tolist()  # the default view is the center
    most = min(len(buffer), at_most or 128)
    assert len(lengths) == -(-count // most)
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    assert made.state().values["rng"] == before


def test_slice_has_at_least_one_observation() -> None:
    assert replay.slice_rows(512, replay.SLICE_BYTES + 1) == 1
    assert replay.slice_rows(512, replay.SLICE_BYTES // 2) == 2
    assert replay.slice_rows(32, 4 * 84 * 84) == 32  # an Atari batch is one slice
    assert replay.slice_rows(128, 9 * 84 * 84) == 33
