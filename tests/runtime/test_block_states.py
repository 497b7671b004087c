"""Damaged and hostile states of a replay in compressed blocks. Each is refused with an error that names the reason."""

import functools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay.blocks import HEAD, OPEN, SIZES, TAIL
from seer_runtime.replay.replay import Replay
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES
from seer_runtime.system.state import StateError
from tests.runtime.replay_pair import Pair

Arrays = dict[str, NDArray[Any]]
Edit = Callable[[dict[str, Any], Arrays], object]

WIDTH, ROWS = 48, 9
"""Bytes of a row, and rows that are in no full block."""
BLOCK_BYTES = 8 * WIDTH


@functools.cache
def _saved() -> tuple[str, Arrays]:
    """Return the values and arrays of a replay whose blocks wrap around: rows of 6x8 pixels, of which few change."""
    pair = _pair()
    pair.play(120)
    while len(pair.log.rows) % 8 != 5 or len(pair.replay.state().arrays[TAIL]) < 100:
        pair.step()
    state = pair.replay.state()
    return json.dumps(state.values), {name: array.copy() for name, array in state.arrays.items()}


def _pair(capacity: int = 40, limit: int = 100) -> Pair:
    return Pair.build(capacity=capacity, stack=2, n=1, frame=(6, 8), slack_bytes=3, limit=limit, changing=0.05)


def _restore(folder: Path, edit: Edit, replay: Replay | None = None) -> int:
    """Restore the saved state after an `edit` of its values and arrays."""
    text, saved = _saved()
    values, arrays = json.loads(text), {name: array.copy() for name, array in saved.items()}
    edit(values, arrays)
    write_tensors(folder / "replay.safetensors", arrays)
    with open_tensors(folder / "replay.safetensors") as tensors:
        return (replay or _pair().replay).restore(values, tensors)


# --- edits -----------------------------------------------------------------------------------------------------


def value(entry: str, new: Any) -> Edit:
    """Set an entry of the values, or remove it if `new` is None."""

    def edit(values: dict[str, Any], arrays: Arrays) -> None:
        *parents, last = entry.split(".")
        inner = functools.reduce(dict.__getitem__, parents, values)
        inner[last] = new
        if new is None:
            del inner[last]

    return edit


def array(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    return lambda values, arrays: arrays.update({name: change(arrays[name]).copy(order="C")})


def sizes(change: Callable[[NDArray[np.uint32]], object]) -> Edit:
    return lambda values, arrays: change(arrays[SIZES])


def block(number: int, content: bytes) -> Edit:
    """Replace a block by `content`, and its size too."""

    def edit(values: dict[str, Any], arrays: Arrays) -> None:
        whole = np.concatenate([arrays[HEAD], arrays[TAIL]]).tobytes()
        begin = int(arrays[SIZES][:number].sum())
        whole = whole[:begin] + content + whole[begin + int(arrays[SIZES][number]) :]
        arrays[SIZES][number] = len(content)
        arrays[HEAD], arrays[TAIL] = np.frombuffer(whole, np.uint8), np.zeros(0, np.uint8)

    return edit


def flipped(number: int) -> Edit:
    """Damage the first bytes of a block."""

    def edit(values: dict[str, Any], arrays: Arrays) -> None:
        begin = int(arrays[SIZES][:number].sum())
        for place in range(begin, begin + 4):
            name, inner = (HEAD, place) if place < len(arrays[HEAD]) else (TAIL, place - len(arrays[HEAD]))
            arrays[name][inner] ^= 255

    return edit


def packed(content: bytes) -> bytes:
    """Return a zstd frame of `content`."""
    return zstandard.ZstdCompressor(level=1).compress(content)


def packed_with_a_huge_window(content: bytes) -> bytes:
    """Return a frame of `content` that asks for 128 MiB of memory."""
    parameters = zstandard.ZstdCompressionParameters(compression_level=1, window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(content) + stream.flush()


SAME = bytes(BLOCK_BYTES)
INTEGERS = (-1, 2**53 + 1, 10**18, 2**70, "x", 1.5)
EDITS: dict[str, tuple[Edit, str]] = {
    **{f"block rows {rows}": (value("blocks.rows", rows), "not blocks of 8 rows") for rows in (0, 7, 16, -8, "8", 8.0)},
    "no block rows": (value("blocks.rows", None), "not blocks of 8 rows"),
    "no blocks": (value("blocks", None), "not blocks of 8 rows"),
    "blocks are a list": (value("blocks", [8, 0]), "not blocks of 8 rows"),
    **{
        f"format {found}": (value("blocks.format", found), f"format {found}, and only formats 2 and 3")
        for found in (1, 4)
    },
    "no format": (value("blocks.format", None), "not blocks of 8 rows with an offset in format 3"),
    **{
        f"offset {offset}": (value("blocks.offset_bytes", offset), "with an offset")
        for offset in (-1, "0", 1.5, [], None)
    },
    **{
        f"layout.{entry} {number}": (value(f"layout.{entry}", number), "layout|its tensor|not in the order|integers")
        for entry in ("appended", "rows", "capacity", "first_slot")
        for number in INTEGERS
    },
    "a row less": (value("layout.rows", 30), "its tensor"),
    "a layout of a ring": (value("layout.capacity", 400), "not in the order of their ids"),
    "another phase of the blocks": (lambda values, arrays: _shift(values, 1), "its tensor"),
    "a row of the open block less": (array(OPEN, lambda rows: rows[:-1]), r"its tensor blocks.open is \(4, 48\)"),
    "open rows of another size": (array(OPEN, lambda rows: rows[:, :-1]), r"its tensor blocks.open is \(5, 47\)"),
    "open rows of another dtype": (array(OPEN, lambda rows: rows.astype("i1")), "blocks.open"),
    "open rows without rows": (array(OPEN, lambda rows: rows.reshape(-1)), "its tensor blocks.open"),
    "a size less": (array(SIZES, lambda sizes: sizes[1:]), "its tensor blocks.sizes"),
    "sizes of another shape": (array(SIZES, lambda sizes: sizes[:, None]), "its tensor blocks.sizes"),
    "sizes of another dtype": (array(SIZES, lambda sizes: sizes.astype("i8")), "blocks.sizes"),
    "a size of 0": (
        sizes(lambda sizes: sizes.__setitem__(slice(2), (0, sizes[0] + sizes[1]))),
        "the sizes of its blocks",
    ),
    "a size of more than a block": (block(1, bytes(BLOCK_BYTES + 1)), "the sizes of its blocks"),
    "sizes that sum up to more": (sizes(lambda sizes: sizes.__iadd__(np.uint32(1))), "the sizes of its blocks"),
    "sizes that overflow": (sizes(lambda sizes: sizes.fill(2**32 - 1)), "the sizes of its blocks"),
    "a byte less": (array(HEAD, lambda head: head[1:]), "the sizes of its blocks"),
    "bytes of another shape": (array(TAIL, lambda tail: tail[:, None]), "not a list of bytes"),
    "bytes without a shape": (array(HEAD, lambda head: head[:1].reshape(())), "not a list of bytes"),
    "bytes of another dtype": (array(TAIL, lambda tail: tail.astype("i1")), "blocks.tail"),
    "bytes of a wider dtype": (array(HEAD, lambda head: head.astype("u2")), "blocks.head"),
    "a tensor less": (lambda values, arrays: arrays.pop(TAIL), "its tensors are"),
    "a tensor more": (lambda values, arrays: arrays.update(rows=np.zeros((3, 48), np.uint8)), "its tensors are"),
    **{
        f"block {number} is damaged": (flipped(number), f"block {{{number}}} cannot be decompressed")
        for number in (0, 3)
    },
    "a block of noise": (block(2, bytes(range(100))), "block {2} cannot be decompressed"),
    "a block of one byte": (block(2, b"\x00"), "block {2} (cannot be decompressed|holds 0 bytes)"),
    "a block that is cut off": (block(2, packed(bytes(range(256)) + bytes(128))[:-9]), "block {2} "),
    "a block of too few bytes": (block(2, packed(SAME[:-1])), "block {2} holds 383 bytes, not 384"),
    "an empty block": (block(2, packed(b"")), "block {2} holds 0 bytes, not 384"),
    "a block of too many bytes": (block(2, packed(SAME + b"x")), "block {2} holds more than 384 bytes"),
    "a block of far too many bytes": (block(2, packed(bytes(10**6))), "block {2} "),
    "a block that grows without limit": (block(2, packed_with_a_huge_window(bytes(10**7))), "block {2} "),
    "a block of a huge window": (
        block(2, packed_with_a_huge_window(SAME)),
        "block {2} cannot be decompressed: .*too much memory",
    ),
    "two frames in a block": (block(2, packed(SAME[:-8]) + packed(SAME[:8])), "block {2} holds 376 bytes"),
    "rubbish behind a block": (block(2, packed(SAME) + b"rubbish"), "block {2} "),
    "rewards are not finite": (lambda values, arrays: arrays["reward"].fill(np.nan), "invalid rewards or flags"),
    "priorities below 0": (lambda values, arrays: arrays["priorities"].fill(-1), "priorities must be finite"),
}


def _shift(values: dict[str, Any], rows: int) -> None:
    values["layout"]["appended"] += rows


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_a_state_that_does_not_match_is_refused(edit: Edit, message: str, tmp_path: Path) -> None:
    """`{2}` in a message is replaced by the number of the third block."""
    layout = json.loads(_saved()[0])["layout"]
    first = (layout["appended"] - layout["rows"]) // 8
    for number in range(4):
        message = message.replace(f"{{{number}}}", str(first + number))
    replay = _pair().replay
    tracemalloc.start()
    try:
        with pytest.raises(StateError, match=message) as raised:
            _restore(tmp_path, edit, replay)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)
    assert peak < WORKSPACE_CAP_BYTES / 10


@pytest.mark.parametrize("offset", [0, 1, 40 * WIDTH + 2, 40 * WIDTH + 3, 10**18, 2**63, 2**70])
def test_any_offset_of_the_blocks_gives_the_same_rows(offset: int, tmp_path: Path) -> None:
    pair = _pair()
    assert _restore(tmp_path, value("blocks.offset_bytes", offset), pair.replay) == 0
    saved = _saved()[1]
    again = pair.replay.state().arrays
    for name in (SIZES, OPEN, "reward", "age", "flags"):
        np.testing.assert_array_equal(again[name], saved[name])
    stored = [np.concatenate([arrays[HEAD], arrays[TAIL]]) for arrays in (again, saved)]
    np.testing.assert_array_equal(*stored)


def test_the_state_without_an_edit_is_restored(tmp_path: Path) -> None:
    assert _restore(tmp_path, lambda values, arrays: None) == 0


def test_a_block_that_does_not_fit_is_dropped_without_being_read(tmp_path: Path) -> None:
    """Damage of the oldest block plays no part in a smaller arena."""
    pair = _pair(capacity=24)
    assert _restore(tmp_path, flipped(0), pair.replay) > 0


@pytest.mark.parametrize("limit", [None, 100])
def test_states_of_the_two_storages_do_not_fit_each_other(limit: int | None, tmp_path: Path) -> None:
    ours, other = _pair(), Pair.build(capacity=40, stack=2, n=1, frame=(6, 8))
    saved, into = (other, ours) if limit else (ours, other)
    saved.play(30)
    state = saved.replay.state()
    write_tensors(tmp_path / "replay", state.arrays)
    with open_tensors(tmp_path / "replay") as tensors, pytest.raises(StateError, match="its tensors are"):
        into.replay.restore(state.values, tensors)


def test_a_damaged_block_of_latents_is_refused(tmp_path: Path) -> None:
    pair = _pair()
    pair.changing = 0.0
    pair.play(60)
    pair.convert("uint8", (1, 30))
    state = pair.replay.state()
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    assert arrays[SIZES][0] < 8 * 30
    arrays[HEAD][:4] ^= 255
    write_tensors(tmp_path / "replay", arrays)
    first = pair.store.oldest // 8
    with (
        open_tensors(tmp_path / "replay") as tensors,
        pytest.raises(StateError, match=f"block {first} cannot be decomp"),
    ):
        pair.replay.restore(json.loads(json.dumps(state.values)), tensors)
