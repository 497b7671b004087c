"""The bytes of a block of rows: how they are arranged before they are compressed (decision 0016).

Rows of quantized latents are arranged by dimension: one 64-bit number for each byte of a row, with the 8 rows of the
block as its bytes, oldest first. A dimension changes little from row to row. So instead of the number x the block has
x - 256 x modulo 2^64: the differences from row to row, less a borrow. A multiplication by 0x0101010101010101 restores
x. Other rows are stored one behind the other as they are.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.block_zstd import Zstd

BLOCK_ROWS = 8
"""Rows in a block (decision 0016). Blocks by dimension need as many rows as a 64-bit number has bytes."""
FORMAT = 3
"""The version of the bytes of a block, part of a state. Format 2 had no dictionary, format 1 no rows by dimension."""
READABLE_FORMATS = (2, FORMAT)
LAZY = 4
"""The number of zstd's strategy."""
DIFFERENCES = np.uint64(2**64 - 255)
SUMS = np.uint64(0x0101010101010101)
NUMBER = np.dtype("<u8")


class BlockFormat:
    """Packs and restores blocks of rows of `row_bytes` bytes, by dimension or as they are.

    Blocks are by dimension if there is a buffer uint8 `[block_bytes]` to arrange one in. Raises ImportError if
    zstandard is not installed.
    """

    def __init__(self, row_bytes: int, arranged: NDArray[np.uint8] | None = None) -> None:
        self._arranged = arranged
        self._block_bytes = BLOCK_ROWS * row_bytes  # of a block that is not compressed
        self._zstd = self._new_zstd()

    def _new_zstd(self) -> Zstd:
        if self.by_dimension:
            # Longer matches are rare between differences, and shorter ones cost more than they save.
            return Zstd(self._block_bytes, {"level": 1, "min_match": 7})
        # The hash table reaches back over two rows. A match is one row back.
        reach = max(6, (self._block_bytes // BLOCK_ROWS).bit_length() + 1)
        lazy = {"level": 5, "strategy": LAZY, "min_match": 6, "search_log": 2, "hash_log": reach}
        return Zstd(self._block_bytes, {"level": 3}, lazy)

    @property
    def by_dimension(self) -> bool:
        """Whether rows are arranged by dimension."""
        return self._arranged is not None

    def pack(self, rows: NDArray[np.uint8], before_bytes: int) -> NDArray[np.uint8]:
        """Return the bytes that store `rows` `[BLOCK_ROWS, row_bytes]`: compressed if that is smaller.

        `before_bytes` is the size of the block that was packed before, or 0. The bytes are valid until the next call
        or until `rows` change. Raises MemoryError.
        """
        flat = rows.reshape(-1)
        if self._arranged is not None:
            flat = self._arranged
            np.copyto(flat.reshape(-1, BLOCK_ROWS), rows.T)
            numbers = flat.view(NUMBER)
            np.multiply(numbers, DIFFERENCES, out=numbers)
        packed = self._zstd.compress(flat.data, before_bytes)
        return np.frombuffer(packed, np.uint8) if len(packed) < flat.nbytes else flat

    def unpack(self, packed: memoryview, out: memoryview, block: int, *, exact: bool = False) -> None:
        """Write the arranged bytes of a block to `out`. `block` is its number in messages.

        Raises ValueError if that fails, and with `exact` also if the block holds more bytes. Raises MemoryError.
        """
        if len(packed) == len(out):
            out[:] = packed
            return
        try:
            self._zstd.decompress(packed, out, exact=exact)
        except ValueError as error:
            raise ValueError(f"block {block} {error}") from error

    def trained_dictionary(self, samples: Iterable[memoryview]) -> bytes:
        """Return a dictionary for blocks that resemble `samples`, which were packed without one.

        It is empty if they have too few bytes. Raises MemoryError. Another thread may read blocks meanwhile.
        """
        return self._zstd.trained(self._restored(samples))

    def _restored(self, samples: Iterable[memoryview]) -> Iterator[bytes]:
        zstd, block = self._new_zstd(), np.empty(self._block_bytes, np.uint8)
        for packed in samples:
            if len(packed) < self._block_bytes:
                zstd.decompress(packed, block.data)
                yield block.tobytes()
            else:
                yield bytes(packed)

    def use_dictionary(self, dictionary: bytes) -> None:
        """Pack further blocks with `dictionary` (see `Zstd.use`)."""
        self._zstd.use(dictionary)


def undo_differences(blocks: NDArray[np.uint8]) -> None:
    """Restore the rows by dimension of arranged `blocks` `[..., block_bytes]` in place."""
    numbers = blocks.view(NUMBER)
    np.multiply(numbers, SUMS, out=numbers)


def packed_row_bytes(rows: NDArray[np.uint8]) -> float:
    """Return the mean bytes of consecutive `rows` of frames `[N, row_bytes]` in blocks.

    N is a multiple of `BLOCK_ROWS`. Raises ImportError if zstandard is not installed.
    """
    layout, total, size = BlockFormat(rows.shape[1]), 0, 0
    for block in rows.reshape(-1, BLOCK_ROWS, rows.shape[1]):
        size = len(layout.pack(block, size))
        total += size
    return total / len(rows)
