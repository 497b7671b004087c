"""The bytes of a block of rows: how they are arranged, compressed with zstd and restored (decision 0016).

Rows of quantized latents are arranged by dimension: one 64-bit number for each byte of a row, with the 8 rows of the
block as its bytes, oldest first. A dimension changes little from row to row. So instead of the number x the block has
x - 256 x modulo 2^64: the differences from row to row, less a borrow. A multiplication by 0x0101010101010101 restores
x. Other rows are stored one behind the other as they are.

Rows as they are are compressed with a thorough search for matches, as long as they compress well. If the block before
was large, the next one will be, too. Then the thorough search would take long and save little.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8
"""Rows in a block (decision 0016). Blocks by dimension need as many rows as a 64-bit number has bytes."""
FORMAT = 2
"""The version of the bytes of a block, part of a state. Format 1 had no rows by dimension."""
WELL_COMPRESSED = 1 / 16
"""The largest fraction of a block's bytes after which the next block is searched thoroughly."""
NO_MEMORY = "not enough memory"
"""Part of the message of zstd if an allocation failed."""
DIFFERENCES = np.uint64(2**64 - 255)
SUMS = np.uint64(0x0101010101010101)
NUMBER = np.dtype("<u8")


class BlockFormat:
    """Compresses and restores blocks of rows of `row_bytes` bytes, by dimension or as they are.

    Blocks are by dimension if there is a buffer uint8 `[block_bytes]` to arrange one in. Raises ImportError if
    zstandard is not installed.
    """

    def __init__(self, row_bytes: int, arranged: NDArray[np.uint8] | None = None) -> None:
        # Imported here, because only runs with --store compact need the library.
        import zstandard

        self._arranged = arranged
        block_bytes = BLOCK_ROWS * row_bytes  # of a block that is not compressed
        if self.by_dimension:
            # Longer matches are rare between differences, and shorter ones cost more than they save.
            parameters = zstandard.ZstdCompressionParameters.from_level(
                1, source_size=block_bytes, min_match=7, write_checksum=False
            )
            self._fast = self._thorough = zstandard.ZstdCompressor(compression_params=parameters)
        else:
            self._fast = zstandard.ZstdCompressor(level=3, write_checksum=False)
            parameters = zstandard.ZstdCompressionParameters.from_level(
                5,
                source_size=block_bytes,
                strategy=zstandard.STRATEGY_LAZY,
                min_match=6,
                search_log=2,
                hash_log=max(6, row_bytes.bit_length() + 1),  # of more than two rows
                write_checksum=False,
            )
            self._thorough = zstandard.ZstdCompressor(compression_params=parameters)
        self._well_compressed_bytes = WELL_COMPRESSED * block_bytes
        # A block that was read from a file may ask for any amount of memory.
        window = 1 << max(10, (block_bytes - 1).bit_length())
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        self._error: type[Exception] = zstandard.ZstdError

    @property
    def by_dimension(self) -> bool:
        """Whether rows are arranged by dimension."""
        return self._arranged is not None

    def pack(self, rows: NDArray[np.uint8], neighbor_bytes: int) -> NDArray[np.uint8]:
        """Return the bytes that store `rows` `[BLOCK_ROWS, row_bytes]`: compressed if that is smaller.

        `neighbor_bytes` is the size of the block that was packed before, or 0. It decides how matches are searched.
        They are valid until the next call or until `rows` change. Raises MemoryError.
        """
        flat = rows.reshape(-1)
        if self._arranged is not None:
            flat = self._arranged
            np.copyto(flat.reshape(-1, BLOCK_ROWS), rows.T)
            numbers = flat.view(NUMBER)
            np.multiply(numbers, DIFFERENCES, out=numbers)
        try:
            compressor = self._thorough if neighbor_bytes <= self._well_compressed_bytes else self._fast
            packed = compressor.compress(flat.data)
        except self._error as error:  # only because an allocation failed
            raise MemoryError(str(error)) from error
        return np.frombuffer(packed, np.uint8) if len(packed) < flat.nbytes else flat

    def unpack(self, packed: memoryview, out: memoryview, block: int, *, exact: bool = False) -> None:
        """Write the arranged bytes of a block to `out`. `block` is its number in messages.

        Raises ValueError if that fails, and with `exact` also if the block holds more bytes. Raises MemoryError.
        """
        if len(packed) == len(out):
            out[:] = packed
            return
        try:
            reader = self._decompressor.stream_reader(packed)
            count = reader.readinto(out)
            more = exact and count == len(out) and len(reader.read(1)) > 0
        except self._error as error:
            if NO_MEMORY in str(error):
                raise MemoryError(str(error)) from error
            raise ValueError(f"block {block} cannot be decompressed: {error}") from error
        if count != len(out):
            raise ValueError(f"block {block} holds {count:,} bytes, not {len(out):,}")
        if more:
            raise ValueError(f"block {block} holds more than {len(out):,} bytes")


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
