"""Tests of how blocks are compressed, against the naive model: the search for matches in frames."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay import block_format
from seer_runtime.replay.block_format import BlockFormat
from seer_runtime.replay.blocks import BlockRows
from tests.runtime.replay_pair import Pair

SIDE = 24
PACK = BlockRows.pack


def _scene() -> Iterator[NDArray[np.uint8]]:
    """Yield frames of a camera that moves over a picture. In half of the time, a third of the pixels are noise."""
    rng = np.random.default_rng(2)
    tiles = rng.integers(0, 2, (SIDE // 8, SIDE // 2), np.uint8) * 60
    picture = tiles.repeat(8, axis=0).repeat(8, axis=1)
    for shown in itertools.count():
        begin = shown * 3 % (3 * SIDE)
        frame = picture[:, begin : begin + SIDE].copy()
        frame[shown % SIDE, 0] = shown % 256
        if shown // 24 % 2:
            noise = rng.integers(0, 256, frame.shape, np.uint8)
            frame = np.where(rng.random(frame.shape) < 0.3, noise, frame)
        yield frame


def _pair() -> Pair:
    pair = Pair.build(capacity=60, stack=3, n=2, frame=(SIDE, SIDE), slack_bytes=9, limit=300)
    pair.frames = _scene()
    return pair


def test_the_block_before_decides_how_matches_are_searched() -> None:
    """The bytes of all blocks are those of the model, which finds out alone how each is searched."""
    pair, sizes = _pair(), list[int]()
    for _ in range(20):
        pair.play(8)
        pair.check()
        assert isinstance(pair.store.storage, BlockRows)
        sizes.append(pair.store.storage.index[pair.store.storage.open_block - 1][1])
    well = [size <= 8 * SIDE * SIDE / 16 for size in sizes]
    assert 5 < sum(well) < 15


def test_the_search_goes_on_as_before_after_reloading() -> None:
    pair = _pair()
    for capacity, slack in ((60, 9), (24, 5), (20, 0), (80, 3)):
        pair.play(45)
        pair.reload(capacity, slack_bytes=slack, limit=300)
        pair.check()
        pair.play(20)
        pair.check()


@pytest.mark.parametrize(("name", "shape"), [("float32", (1, 60)), ("uint8", (1, 90))])
def test_the_search_after_the_conversion(name: str, shape: tuple[int, int]) -> None:
    pair = _pair()
    pair.play(150)
    pair.convert(name, shape)
    pair.check()
    pair.play(90)
    pair.check()


# --- planted faults ------------------------------------------------------------------------------------------


def _never_thorough(storage: BlockRows, rows: Any, neighbor: int) -> NDArray[np.uint8]:
    with mock.patch.object(storage._format, "_thorough", storage._format._fast):
        return PACK(storage, rows, neighbor)


def _always_thorough(storage: BlockRows, rows: Any, neighbor: int) -> NDArray[np.uint8]:
    return PACK(storage, rows, -1)


def _by_another_block(storage: BlockRows, rows: Any, neighbor: int) -> NDArray[np.uint8]:
    return PACK(storage, rows, neighbor - 1)


@pytest.mark.parametrize("fault", [_never_thorough, _always_thorough, _by_another_block])
def test_model_finds_a_planted_fault(fault: Callable[..., Any]) -> None:
    with mock.patch.object(BlockRows, "pack", fault), pytest.raises(AssertionError):
        test_the_block_before_decides_how_matches_are_searched()
