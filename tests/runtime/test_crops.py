"""Tests of crops: valid offsets, their frequencies, and one offset for all frames of a stack."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec
from seer_runtime.replay.crops import Crop
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from tests.runtime.frequencies import assert_frequencies
from tests.runtime.naive_replay import ledger_of


def _offsets(crop: Crop) -> list[tuple[int, int]]:
    rows, columns = (whole - side + 1 for whole, side in zip(crop.frame_size, crop.size, strict=True))
    return [(y, x) for y in range(rows) for x in range(columns)]


@pytest.mark.parametrize(
    ("frame_size", "size"),
    [
        ((100, 100), (84, 84)),
        ((50, 50), (42, 42)),
        ((5, 4), (5, 3)),
        ((4, 5), (3, 5)),
        ((3, 7), (1, 1)),
        ((2, 2), (1, 2)),
    ],
)
def test_every_offset_is_drawn_equally_often(frame_size: tuple[int, int], size: tuple[int, int]) -> None:
    crop = Crop(frame_size, size)
    drawn = crop.draw(np.random.default_rng(0), 30_000)
    assert drawn.shape == (30_000, 2)
    offsets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert list(map(tuple, offsets.tolist())) == _offsets(crop)
    assert offsets[-1].tolist() == [frame_size[0] - size[0], frame_size[1] - size[1]]
    assert_frequencies(counts, np.full(len(counts), 1 / len(counts)))


@pytest.mark.parametrize("count", [0, 1, 500])
def test_whole_crop_does_not_advance_the_generator(count: int) -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    drawn = Crop((7, 5), (7, 5)).draw(rng, count)
    assert rng.bit_generator.state == before
    assert drawn.tolist() == [[0, 0]] * count
    codec = frame_codec((3, 7, 5))
    assert codec.draw(rng, count).tolist() == codec.plain(count).tolist() == [[0, 0]] * count
    assert rng.bit_generator.state == before
    codec = frame_codec((3, 7, 5), (7, 4))
    codec.draw(rng, count)
    assert (rng.bit_generator.state == before) == (count == 0)


@pytest.mark.parametrize(
    ("whole", "side", "begin"), [(100, 84, 8), (50, 42, 4), (84, 84, 0), (7, 4, 1), (7, 1, 3), (2, 1, 0)]
)
def test_center_crop_has_equal_margins(whole: int, side: int, begin: int) -> None:
    assert Crop((whole, 9), (side, 9)).center.tolist() == [begin, 0]
    assert Crop((9, whole), (9, side)).center.tolist() == [0, begin]
    assert (whole - side - begin) - begin in (0, 1)


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (6, 3), (3, 5), (-1, 2)])
def test_crop_that_does_not_fit_is_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"a crop of {size[0]}x{size[1]} does not fit a frame of 5x4"):
        frame_codec((3, 5, 4), size)


sides = st.integers(1, 6)


@given(data=st.data(), height=sides, width=sides, leading=st.sampled_from([(), (1,), (3,), (2, 3)]))
def test_cut_equals_a_slice_and_writes_nothing_else(
    data: st.DataObject, height: int, width: int, leading: tuple[int, ...]
) -> None:
    crop = Crop((height, width), (data.draw(st.integers(1, height)), data.draw(st.integers(1, width))))
    frames = np.random.default_rng(0).integers(0, 200, (*leading, height, width), np.uint8)
    for y, x in _offsets(crop):
        memory = np.full((3, *leading, *crop.size), 222, np.uint8)
        crop.cut(frames, np.array([y, x]), memory[1])
        np.testing.assert_array_equal(memory[1], frames[..., y : y + crop.size[0], x : x + crop.size[1]])
        assert (memory[::2] == 222).all()


@pytest.mark.parametrize("frame", [(5, 6), (3, 5, 6)])
@pytest.mark.parametrize("size", [(5, 6), (4, 6), (5, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("stack", [1, 3, 4])
def test_all_frames_of_a_stack_have_the_same_offset(frame: tuple[int, ...], size: tuple[int, int], stack: int) -> None:
    """The rows include stacks that wrap around the ring, and stacks with blank frames before the first of a scene."""
    codec = frame_codec(frame, size)
    capacity = stack + 5
    ledger = ledger_of(capacity * codec.row_bytes)
    store = RowStore(FixedRows(Arena(capacity * codec.row_bytes, ledger), codec), stack=stack, ledger=ledger)
    places = np.arange(1, 1 + np.prod(frame), dtype=np.uint8).reshape(frame)  # the value of a pixel is its position
    ends = (1, 3, 11)
    for step in range(12 + stack):
        store.append(places + np.uint8(100) * (step % 2), 0, 0.0, terminated=step in ends, truncated=False)
    rows = np.arange(store.oldest, store.appended)
    rows = rows[store.stack_is_whole(rows)]
    firsts = [max(first for first in (0, *(end + 1 for end in ends)) if first <= row) for row in rows.tolist()]
    assert any(row - first < stack - 1 for row, first in zip(rows.tolist(), firsts, strict=True)) == (stack > 1)
    for y, x in _offsets(codec.crop):
        out = np.full((len(rows), *store.observation_shape), 77, np.uint8)
        store.gather(rows, np.tile([y, x], (len(rows), 1)), out)
        cut = places[..., y : y + size[0], x : x + size[1]]
        for row, first, got in zip(
            rows.tolist(), firsts, out.reshape(len(rows), stack, *codec.view_shape), strict=True
        ):
            for position, step in enumerate(range(row - stack + 1, row + 1)):
                wanted = cut + np.uint8(100) * (step % 2) if step >= first else np.zeros_like(cut)
                np.testing.assert_array_equal(got[position], wanted, err_msg=f"frame {step} of row {row} at {y}, {x}")


def test_each_observation_has_its_own_offset() -> None:
    codec = frame_codec((4, 4), (2, 2))
    ledger = ledger_of(10 * codec.row_bytes)
    store = RowStore(FixedRows(Arena(10 * codec.row_bytes, ledger), codec), stack=1, ledger=ledger)
    places = np.arange(16, dtype=np.uint8).reshape(4, 4)
    store.append(places, 0, 0.0, terminated=False, truncated=False)
    offsets = np.array(_offsets(codec.crop))
    out = np.zeros((9, 1, 2, 2), np.uint8)
    store.gather(np.zeros(9, np.int64), offsets, out)
    assert out[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
