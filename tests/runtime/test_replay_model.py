"""Tests of the conversion against the naive model, and of the model itself with planted faults."""

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay import convert
from seer_runtime.replay.codecs import FloatCodec, latent_codec
from seer_runtime.replay.convert import Conversion
from seer_runtime.replay.store import RowStore
from tests.runtime.frequencies import assert_frequencies
from tests.runtime.naive_replay import assert_observations, hash_encoder
from tests.runtime.replay_pair import Pair

pytestmark = pytest.mark.integration

# Latent rows that are smaller than, equal to and larger than a frame of 8 bytes.
LATENTS = [("float16", 1), ("float32", 1), ("float16", 4), ("float32", 2), ("float16", 7), ("float32", 5)]
LATENTS += [("uint4", 1), ("uint8", 2), ("uint4", 7), ("uint8", 8), ("uint8", 14), ("uint4", 27)]
Cropped = tuple[tuple[int, ...], tuple[int, int], int, str, tuple[int, int]]
# Frame shape, crop size, K, codec and latent shape [N, L]: frames of 8 and 60 bytes, rows of 9 to 64 bytes.
CROPPED: list[Cropped] = [
    ((2, 4), (1, 2), 3, "float16", (2, 1)),
    ((2, 4), (2, 1), 4, "float32", (1, 1)),
    ((3, 5, 4), (5, 4), 1, "float32", (2, 3)),
    ((3, 5, 4), (3, 3), 4, "float32", (2, 2)),
    ((3, 5, 4), (1, 4), 3, "float16", (2, 5)),
    ((3, 5, 4), (5, 1), 2, "float32", (1, 3)),
    ((3, 5, 4), (1, 1), 4, "float16", (2, 2)),
    ((3, 5, 4), (3, 3), 4, "uint8", (2, 2)),
    ((3, 5, 4), (1, 4), 3, "uint4", (1, 5)),
    ((2, 4), (1, 2), 3, "uint4", (2, 7)),
]


def _half_of_them_slow(stacks: tuple[int, int], cases: list[Any]) -> list[Any]:
    """Return each case with both stacks; `make test` runs it with one of them, by turns two cases with each."""
    return [
        pytest.param(stack, case, marks=() if stack == stacks[index // 2 % 2] else pytest.mark.slow)
        for index, case in enumerate(cases)
        for stack in stacks
    ]


def _convert_and_continue(pair: Pair, *latent: Any) -> None:
    """Convert, finish the running episode, and append latents until their ring has wrapped around."""
    pair.check()
    pair.convert(*latent)
    pair.check()
    pair.step()  # continues the running episode
    pair.step(truncated=True)
    pair.check()
    pair.final()
    pair.play(100)
    pair.check()
    pair.play(pair.store.capacity)
    pair.check()
    pair.check_sample()


@pytest.mark.parametrize(("stack", "latent"), _half_of_them_slow((1, 4), LATENTS))
@pytest.mark.parametrize("rows", [pytest.param(150, marks=pytest.mark.slow), 500])
def test_conversion_over_many_chunks_agrees_with_the_model(latent: tuple[str, int], stack: int, rows: int) -> None:
    pair = Pair.build(capacity=230, stack=stack, n=3, slack_bytes=5)
    pair.play(rows)
    _convert_and_continue(pair, latent[0], (latent[1],))


@pytest.mark.parametrize(("stack", "cropped"), _half_of_them_slow((1, 3), CROPPED))
@pytest.mark.parametrize("rows", [pytest.param(80, marks=pytest.mark.slow), 300])
def test_converted_rows_hold_the_latents_of_their_stacks_under_each_crop(
    cropped: Cropped, stack: int, rows: int
) -> None:
    frame, crop, augmentations, name, shape = cropped
    pair = Pair.build(capacity=130, stack=stack, n=2, frame=frame, crop=crop, batch=16, slack_bytes=3)
    pair.play(rows)
    pair.check_sample()
    _convert_and_continue(pair, name, shape, augmentations)


@pytest.mark.parametrize("augmentations", range(1, 5))
def test_sample_draws_the_k_latents_equally_often_and_one_view_per_transition(augmentations: int) -> None:
    pair = Pair.build(capacity=120, stack=2, n=1, batch=200)
    pair.episode(50, "running")
    count = itertools.count()

    def encode(views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Number the latents: latent k of a row is K times the row id, plus k."""
        return np.array([[[next(count)]] for _ in views], np.float32)

    pair.replay.convert(latent_codec("float32", (1, 1), augmentations), encode)
    drawn: list[int] = []
    for _ in range(10):
        batch = pair.replay.sample()
        own, after = (
            np.concatenate([part.flatten() for part in observations.slices()])
            for observations in (batch.observations, batch.next_observations)
        )
        views = own - augmentations * batch.row_ids
        np.testing.assert_array_equal(after - augmentations * (batch.row_ids + 1), views)
        drawn += views.astype(int).tolist()
    counts = np.bincount(drawn)
    assert len(counts) == augmentations
    assert_frequencies(counts, np.full(augmentations, 1 / augmentations))


def test_conversion_in_an_episode_longer_than_the_age_column_counts() -> None:
    pair = Pair.build(capacity=70, stack=4, n=2)
    pair.episode(300, "running")
    pair.check()
    pair.convert("float32", (1,))
    pair.check()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_conversion_of_an_almost_empty_store(rows: int) -> None:
    pair = Pair.build(capacity=10, stack=4, n=2)
    for _ in range(rows):
        pair.step()
    assert pair.convert("float32", (1,)) == list(range(rows))
    pair.check()
    pair.episode(30, "terminated")
    pair.check()


def test_conversion_between_a_truncated_step_and_its_final_frame() -> None:
    pair = Pair.build(capacity=10, stack=3, n=2)
    pair.episode(11, "terminated")
    pair.step()
    pair.step(truncated=True)
    pair.convert("float32", (1,))
    pair.check()
    pair.final()
    pair.check()


def test_conversion_of_a_wrapped_ring_drops_only_rows_without_a_whole_stack() -> None:
    pair = Pair.build(capacity=10, stack=4, n=1)
    pair.episode(25, "running")
    assert pair.convert("float32", (2,)) == list(range(18, 25))  # 15, 16 and 17 lack frame 14, 13 or 12


def test_conversion_of_a_wrapped_ring_keeps_all_rows_after_an_episode_start() -> None:
    pair = Pair.build(capacity=10, stack=4, n=1)
    pair.episode(16, "terminated")
    pair.episode(9, "running")  # rows 16 to 24; row 15 is the oldest held
    assert pair.convert("float32", (2,)) == list(range(16, 25))


# --- tests of the model: it must find planted faults ----------------------------------------------------------


def _frames_one_row_early(*args: Any) -> NDArray[np.uint8]:
    return np.roll(RIGHT_ALIGN(*args), 1, axis=0)


def _frames_one_row_late(*args: Any) -> NDArray[np.uint8]:
    return np.roll(RIGHT_ALIGN(*args), -1, axis=0)


def _columns_one_row_early(store: RowStore, first: int, columns: Any) -> None:
    COPY_COLUMNS(store, first, columns)
    for column in columns.arrays():
        column[:] = np.roll(column, 1, axis=0)


def _no_frames_carried(*args: Any) -> None:
    pass


def _no_blank_frames(conversion: Conversion, ages: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return CUT_VIEWS(conversion, np.full_like(ages, 255))


def _one_view_for_all(conversion: Conversion, ages: NDArray[np.uint8]) -> NDArray[np.uint8]:
    views = CUT_VIEWS(conversion, ages)
    views[:, :] = views[:, :1].copy()
    return views


def _views_in_another_order(conversion: Conversion, ages: NDArray[np.uint8]) -> NDArray[np.uint8]:
    views = CUT_VIEWS(conversion, ages)
    views[...] = views[:, ::-1].copy()
    return views


def _the_next_latent(codec: FloatCodec, rows: Any, slots: Any, views: Any, out: Any) -> None:
    GATHER(codec, rows, slots, (views + 1) % codec.shape[0], out)


RIGHT_ALIGN, COPY_COLUMNS = convert._right_align, convert._copy_columns
CUT_VIEWS, GATHER = Conversion._cut_views, FloatCodec.gather
PLANTED: list[tuple[Any, str, Callable[..., Any]]] = [
    (convert, "_right_align", _frames_one_row_early),
    (convert, "_right_align", _frames_one_row_late),
    (convert, "_copy_columns", _columns_one_row_early),
    (convert, "_carry_frames_before", _no_frames_carried),
    (Conversion, "_cut_views", _no_blank_frames),
    (Conversion, "_cut_views", _one_view_for_all),
    (Conversion, "_cut_views", _views_in_another_order),
    (FloatCodec, "gather", _the_next_latent),
]


def _before_the_freeze() -> Pair:
    pair = Pair.build(capacity=100, stack=4, n=3, crop=(1, 3))
    pair.play(250)
    pair.episode(30, "running")
    return pair


LATENT = ("float16", (5,), 2)  # keeps fewer rows, so the first stack needs frames of dropped rows


@pytest.mark.parametrize(("owner", "name", "fault"), PLANTED, ids=[fault.__name__ for *_, fault in PLANTED])
def test_model_finds_a_planted_fault(owner: Any, name: str, fault: Callable[..., Any]) -> None:
    pair, twin = _before_the_freeze(), _before_the_freeze()
    codec, encode = latent_codec(*LATENT), hash_encoder(*LATENT[1])
    with mock.patch.object(owner, name, fault):
        pair.replay.convert(codec, encode)
        kept = pair.log.convert(encode, pair.store.capacity, *LATENT[::2], twin.draws)
        with pytest.raises(AssertionError):
            pair.check()
        if name != "_copy_columns":
            with pytest.raises(AssertionError, match="row"):
                assert_observations(pair.store, pair.log, kept)


def test_model_agrees_without_a_planted_fault() -> None:
    pair, twin = _before_the_freeze(), _before_the_freeze()
    encode = hash_encoder(*LATENT[1])
    pair.replay.convert(latent_codec(*LATENT), encode)
    pair.log.convert(encode, pair.store.capacity, *LATENT[::2], twin.draws)
    pair.check()
