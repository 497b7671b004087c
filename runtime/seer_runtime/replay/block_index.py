"""Sizes of compressed blocks of rows, and the index of their places in the ring of bytes (see `blocks.py`)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.ledger import Ledger, Line

BLOCK_ROWS = 8
"""Rows in a block (decision 0016)."""
LEVEL = 3
"""The compression level of zstd (decision 0016)."""
GATHERED_BYTES = 2**15
"""Bytes of rows that are gathered for one call of the codec."""
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


def gathered_rows(row_bytes: int, stack: int) -> int:
    """Return how many rows are gathered before the codec decodes them: none if it decodes whole stacks."""
    return max(1, GATHERED_BYTES // row_bytes) if stack == 1 else 0


def block_workspace_bytes(row_bytes: int, stack: int) -> int:
    """Return the workspace bytes of a storage: the open block twice, the last decoded blocks, the gathered rows."""
    rows = (2 + decoded_blocks(stack)) * BLOCK_ROWS + gathered_rows(row_bytes, stack)
    return rows * row_bytes


def guaranteed_rows(arena_bytes: int, row_bytes: int) -> int:
    """Return how many rows an arena holds if no block becomes smaller. The open rows come on top."""
    return max(0, arena_bytes // (BLOCK_ROWS * row_bytes) - 1) * BLOCK_ROWS


def room_bytes(arena_bytes: int, row_bytes: int) -> int:
    """Return the bytes of an arena for full blocks: all but the room for one more block that is not compressed."""
    return arena_bytes - BLOCK_ROWS * row_bytes


def new_compressor() -> Any:
    """Return a `ZstdCompressor` for blocks. Raises ImportError if zstandard is not installed."""
    # Imported here, because only runs with --store compact need the library.
    import zstandard

    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)


def packed_row_bytes(rows: NDArray[np.uint8]) -> float:
    """Return the mean bytes of consecutive `rows` `[N, row_bytes]` in blocks. N is a multiple of `BLOCK_ROWS`.

    Raises ImportError if zstandard is not installed.
    """
    compressor = new_compressor()
    blocks = rows.reshape(-1, BLOCK_ROWS, rows.shape[1])
    return sum(min(len(compressor.compress(block.data)), block.nbytes) for block in blocks) / len(rows)


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

    def __setitem__(self, block: int, place: tuple[int, int]) -> None:
        entry = block % len(self)
        self._begins[entry], self._sizes[entry] = place

    def sizes(self, first: int, end: int) -> NDArray[np.uint32]:
        """Return the sizes of the blocks from `first` to before `end`."""
        return self._sizes[np.arange(first, end) % len(self)]

    def fill(self, first: int, sizes: NDArray[np.uint32], position: int) -> None:
        """Set the blocks from `first` on, which lie one behind the other from `position` on."""
        entries = np.arange(first, first + len(sizes)) % len(self)
        self._sizes[entries] = sizes
        self._begins[entries] = position + sizes.cumsum(dtype=np.int64) - sizes

    def shift(self, first: int, end: int, count_bytes: int) -> None:
        """Add `count_bytes` to the positions of the blocks from `first` to before `end`."""
        self._begins[np.arange(first, end) % len(self)] += count_bytes
