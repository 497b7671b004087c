"""Sizes of compressed blocks of rows, and the index of their places in the ring of bytes (see `blocks.py`)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.block_format import BLOCK_ROWS
from seer_runtime.replay.block_zstd import DICTIONARY_BYTES
from seer_runtime.system.ledger import Ledger, Line

GROUP_BYTES = 2**19
"""Bytes of blocks that are decoded before the codec decodes their rows."""
GROUP_BLOCKS = 32
"""The most blocks that are decoded before the codec decodes their rows."""
SPARE_BLOCKS = 2
"""Blocks without rows in the index: the one that is being filled, and the one that was given up last."""


def block_slots(rows: int) -> int:
    """Return the number of slots of a storage for up to `rows` rows: whole blocks, with spare ones."""
    return (-(-rows // BLOCK_ROWS) + SPARE_BLOCKS) * BLOCK_ROWS


def index_bytes(slots: int) -> int:
    """Return the size in bytes of the index of a storage with `slots` slots."""
    return slots // BLOCK_ROWS * (np.dtype(np.int64).itemsize + np.dtype(np.uint32).itemsize)


def decoded_blocks(stack: int) -> int:
    """Return the largest number of blocks that a stack of `stack` rows can touch."""
    return -(-(stack - 1) // BLOCK_ROWS) + 1


def group_blocks(row_bytes: int, stack: int) -> int:
    """Return the number of blocks that are decoded before the codec decodes their rows: at least those of a stack."""
    return max(decoded_blocks(stack), min(GROUP_BLOCKS, GROUP_BYTES // (BLOCK_ROWS * row_bytes)))


def block_workspace_bytes(row_bytes: int, stack: int) -> int:
    """Return the workspace bytes of a storage: the open block twice, and the decoded blocks.

    If a stack is one row, there is a buffer to arrange a block, one for a row of each decoded block, and a dictionary.
    """
    group = group_blocks(row_bytes, stack)
    rows = (2 + group) * BLOCK_ROWS
    if stack > 1:
        return rows * row_bytes
    return (rows + BLOCK_ROWS + group) * row_bytes + DICTIONARY_BYTES


def guaranteed_rows(arena_bytes: int, row_bytes: int) -> int:
    """Return how many rows an arena holds if no block becomes smaller. The open rows come on top."""
    return max(0, arena_bytes // (BLOCK_ROWS * row_bytes) - 1) * BLOCK_ROWS


def room_bytes(arena_bytes: int, row_bytes: int) -> int:
    """Return the bytes of an arena for full blocks: all but the room for one more block that is not compressed."""
    return arena_bytes - BLOCK_ROWS * row_bytes


def newest_that_fit(sizes: NDArray[np.uint32], arena_bytes: int, row_bytes: int) -> int:
    """Return how many of the newest blocks of `sizes` bytes `[B]` fit into an arena, with room for one more block."""
    ends = sizes[::-1].cumsum(dtype=np.int64)
    return int(np.count_nonzero(ends <= room_bytes(arena_bytes, row_bytes)))


class BlockIndex:
    """The place of each block in the ring of bytes. The entry of block k is k modulo the number of entries.

    There are enough entries for `rows` rows. Raises BudgetError if the ledger has no room.
    """

    def __init__(self, rows: int, ledger: Ledger) -> None:
        count = block_slots(rows) // BLOCK_ROWS
        with ledger.all_or_nothing():
            self._begins = ledger.allocate(Line.INDEX, count, np.int64)  # positions in the ring
            self._sizes = ledger.allocate(Line.INDEX, count, np.uint32)  # bytes in the ring

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, block: int) -> tuple[int, int]:
        """Return the position and the size of a block in bytes."""
        entry = block % len(self)
        return self._begins.item(entry), self._sizes.item(entry)

    def places(self, blocks: list[int]) -> Iterator[tuple[int, int, int]]:
        """Return the number, the position and the size in bytes of each of the `blocks`."""
        entries = np.array(blocks, np.int64) % len(self)
        return zip(blocks, self._begins[entries].tolist(), self._sizes[entries].tolist(), strict=True)

    def __setitem__(self, block: int, place: tuple[int, int]) -> None:
        entry = block % len(self)
        self._begins[entry], self._sizes[entry] = place

    def sizes(self, first: int, end: int) -> NDArray[np.uint32]:
        """Return the sizes of the blocks from `first` to before `end`."""
        return self._sizes[np.arange(first, end) % len(self)]

    def fill(self, first: int, sizes: NDArray[np.uint32], position: int) -> None:
        """Set the blocks from `first` on, which are stored one after another from `position` on."""
        entries = np.arange(first, first + len(sizes)) % len(self)
        self._sizes[entries] = sizes
        self._begins[entries] = position + sizes.cumsum(dtype=np.int64) - sizes

    def shift(self, first: int, end: int, count_bytes: int) -> None:
        """Add `count_bytes` to the positions of the blocks from `first` to before `end`."""
        self._begins[np.arange(first, end) % len(self)] += count_bytes
