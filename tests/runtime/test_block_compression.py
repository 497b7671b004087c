"""Tests of how blocks are compressed, against the naive model: the search for matches in frames, and the dictionary."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay import blocks
from seer_runtime.replay.block_zstd import DICTIONARY_BYTES
from seer_runtime.replay.blocks import DICTIONARY, BlockRows
from seer_runtime.system.state import StateError
from tests.runtime.naive_blocks import NaiveBlocks
from tests.runtime.replay_pair import Pair

Frames = Iterator[NDArray[np.uint8]]
SIDE = 24
PACK, USE = BlockRows.pack, BlockRows._use_dictionary


def _storage(pair: Pair) -> BlockRows:
    assert isinstance(pair.store.storage, BlockRows)
    return pair.store.storage


# --- the search for matches ------------------------------------------------------------------------------------


def _scene() -> Frames:
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


def _filmed() -> Pair:
    pair = Pair.build(capacity=60, stack=3, n=2, frame=(SIDE, SIDE), slack_bytes=9, limit=300)
    pair.frames = _scene()
    return pair


def test_the_block_before_decides_how_matches_are_searched() -> None:
    """The bytes of all blocks are those of the model, which finds out alone how each is searched."""
    pair, sizes = _filmed(), list[int]()
    for _ in range(20):
        pair.play(8)
        pair.check()
        sizes.append(_storage(pair).index[_storage(pair).open_block - 1][1])
    well = [size <= 8 * SIDE * SIDE / 16 for size in sizes]
    assert 5 < sum(well) < 15


def test_a_reloaded_replay_searches_for_matches_as_before() -> None:
    pair = _filmed()
    for capacity, slack in ((60, 9), (24, 5), (20, 0), (80, 3)):
        pair.play(45)
        pair.reload(capacity, slack_bytes=slack, limit=300)
        pair.check()
        pair.play(20)
        pair.check()


def test_the_block_behind_decides_in_a_conversion() -> None:
    pair = _filmed()
    pair.play(150)
    pair.convert("float32", (1, 60))
    pair.check()
    pair.play(90)
    pair.check()


def _never_thorough(storage: BlockRows, rows: Any, before: int) -> NDArray[np.uint8]:
    with mock.patch.object(storage._format._zstd, "_thorough", storage._format._zstd._fast):
        return PACK(storage, rows, before)


def _always_thorough(storage: BlockRows, rows: Any, before: int) -> NDArray[np.uint8]:
    return PACK(storage, rows, -1)


def _by_another_block(storage: BlockRows, rows: Any, before: int) -> NDArray[np.uint8]:
    return PACK(storage, rows, before - 1)


@pytest.mark.parametrize("fault", [_never_thorough, _always_thorough, _by_another_block])
def test_model_finds_a_planted_fault_of_the_search(fault: Callable[..., Any]) -> None:
    with mock.patch.object(BlockRows, "pack", fault), pytest.raises(AssertionError):
        test_the_block_before_decides_how_matches_are_searched()


# --- the dictionary --------------------------------------------------------------------------------------------

LATENTS = [("uint8", (1, 60)), ("uint4", (1, 90))]
BLOCKS = 6


@pytest.fixture(autouse=True)
def _small_dictionaries() -> Iterator[None]:
    """Train a dictionary as soon as a few blocks are held."""
    with (
        mock.patch.object(blocks, "DICTIONARY_BLOCKS", BLOCKS),
        mock.patch.object(NaiveBlocks, "dictionary_blocks", BLOCKS),
    ):
        yield


def _pictures() -> Frames:
    """Yield frames that change after some steps to another one of a few pictures."""
    rng = np.random.default_rng(3)
    shown = rng.integers(0, 256, (5, 4, 5), np.uint8)
    while True:
        yield from itertools.repeat(shown[rng.integers(5)], int(rng.integers(1, 9)))


def _latents(name: str, shape: tuple[int, int], *, rows: int) -> Pair:
    """A replay of latents. The first `rows` were converted, the newest ones first."""
    pair = Pair.build(capacity=400, stack=1, n=2, frame=(4, 5), slack_bytes=3, limit=500, prioritized=True)
    pair.frames = _pictures()
    if rows:
        pair.play(rows)
    pair.convert(name, shape)
    return pair


def _has_dictionary(pair: Pair) -> bool:
    assert isinstance(pair.log, NaiveBlocks)
    pair.log.used_bytes()
    dictionary = pair.replay.state().arrays[DICTIONARY]
    assert dictionary.tobytes() == pair.log.dictionary
    return len(dictionary) > 0


@pytest.mark.parametrize(("name", "shape"), LATENTS)
@pytest.mark.parametrize("rows", [0, 30, 150])
def test_blocks_with_and_without_a_dictionary_agree_with_the_model(
    name: str, shape: tuple[int, int], rows: int
) -> None:
    """Without rows to convert, the dictionary is trained while rows are appended."""
    pair = _latents(name, shape, rows=rows)
    pair.check()
    assert _has_dictionary(pair) == (rows == 150)
    for _ in range(8):
        pair.play(15)
        pair.check()
    assert _has_dictionary(pair)
    pair.check_sample()


@pytest.mark.parametrize(("name", "shape"), LATENTS)
def test_a_reloaded_replay_compresses_the_same_bytes(name: str, shape: tuple[int, int]) -> None:
    """One replay is saved and reloaded now and then, before and after it has a dictionary. The other one is not."""
    states, trained = [], []
    for reloaded in (False, True):
        pair = _latents(name, shape, rows=0)
        for _ in range(8):
            pair.play(15)
            if reloaded:
                trained.append(_has_dictionary(pair))
                rows, rest = divmod(pair.store.arena.size_bytes, pair.store.codec.row_bytes)
                pair.reload(rows, slack_bytes=rest, limit=500)
                pair.check()
        states.append(pair.replay.state())
    assert trained[0] < trained[-1]
    assert states[0].values == states[1].values
    for wanted, got in zip(states[0].arrays.values(), states[1].arrays.values(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_smaller_arena_keeps_the_dictionary() -> None:
    pair = _latents("uint8", (1, 60), rows=150)
    dictionary = pair.replay.state().arrays[DICTIONARY].copy()
    pair.reload(40, slack_bytes=11, limit=100)
    np.testing.assert_array_equal(pair.replay.state().arrays[DICTIONARY], dictionary)
    pair.check()
    pair.play(60)
    pair.check()


def test_a_batch_stays_valid_while_a_dictionary_is_trained() -> None:
    pair = _latents("uint8", (1, 60), rows=30)
    while not _has_dictionary(pair):
        batch = pair.replay.sample()
        wanted = [part.tobytes() for part in batch.observations.slices()]
        for _ in range(8):
            pair.step()
            assert [part.tobytes() for part in batch.observations.slices()] == wanted


def _without_reading_it(storage: BlockRows, dictionary: bytes) -> None:
    if storage.open_block == storage.oldest_block:
        USE(storage, dictionary)


def _forgotten(storage: BlockRows, dictionary: bytes) -> None:
    storage._format.use_dictionary(dictionary) if dictionary else None


def _of_other_bytes(storage: BlockRows, dictionary: bytes) -> None:
    if dictionary:
        USE(storage, dictionary[:-8] + bytes(8))


@pytest.mark.parametrize("fault", [_without_reading_it, _forgotten, _of_other_bytes])
def test_model_finds_a_planted_fault_of_the_dictionary(fault: Callable[..., Any]) -> None:
    with (
        mock.patch.object(BlockRows, "_use_dictionary", fault),
        pytest.raises((AssertionError, StateError, ValueError)),
    ):
        test_a_reloaded_replay_compresses_the_same_bytes("uint8", (1, 60))


# --- states ------------------------------------------------------------------------------------------------------


def _restore(folder: Path, dictionary: NDArray[Any] | None, *, found: int = 3, rows: int = 150) -> Pair:
    """Restore a replay with another `dictionary` and number of the format. Return the restored replay."""
    pair, again = (_latents("uint8", (1, 60), rows=count) for count in (rows, 0))
    state = pair.replay.state()
    arrays = {name: array for name, array in state.arrays.items() if name != DICTIONARY}
    if dictionary is not None:
        arrays[DICTIONARY] = dictionary
    write_tensors(folder / "replay", arrays)
    with open_tensors(folder / "replay") as tensors:
        again.replay.restore({**state.values, "blocks": {**state.values["blocks"], "format": found}}, tensors)
    return again


ZEROS = np.zeros(DICTIONARY_BYTES + 1, np.uint8)


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        (ZEROS, r"its dictionary is \(4097,\), not up to 4,096 bytes"),
        (ZEROS[:64].reshape(2, 32), r"its dictionary is \(2, 32\), not up to"),
        (ZEROS[:64].astype("i1"), "dictionary"),
        (ZEROS[:4_096], "its dictionary cannot be used: "),
        (np.frombuffer(b"\x37\xa4\x30\xec" + bytes(range(200)), np.uint8), "its dictionary cannot be used: "),
        (ZEROS[:1], "its dictionary cannot be used: "),
        (ZEROS[:0], r"block \d+ cannot be decompressed"),
        (None, r"block \d+ cannot be decompressed"),
    ],
)
def test_a_hostile_dictionary_is_refused(dictionary: NDArray[Any] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=message) as raised:
        _restore(tmp_path, dictionary)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("found", [2, 3])
def test_a_state_without_a_dictionary_is_restored(found: int, tmp_path: Path) -> None:
    """Format 2 had no dictionary."""
    again = _restore(tmp_path, None, found=found, rows=30)
    assert again.store.rows >= 30
    assert again.replay.state().values["blocks"]["format"] == 3
