"""The bytes of a block of rows: how they are arranged, compressed with zstd and restored (decision 0016).

Rows of quantized latents are arranged by dimension: one 64-bit number for each byte of a row, with the 8 rows of the
block as its bytes, oldest first. A dimension changes little from row to row. So instead of the number x the block has
x - 256 x modulo 2^64: the differences from row to row, less a borrow. A multiplication by 0x0101010101010101 restores
x. Other rows are stored one behind the other as they are.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8
"""Rows in a block (decision 0016). Blocks by dimension need as many rows as a 64-bit number has bytes."""
FORMAT = 2
"""The version of the bytes of a block, part of a state. Format 1 had no rows by dimension."""
NO_MEMORY = "not enough memory"
"""Part of the message of zstd if an allocation failed."""
DIFFERENCES = np.uint64(2**64 - 255)
SUMS = np.uint64(0x0101010101010101)
NUMBER = np.dtype("<u8")


class BlockFormat:
    """Compresses and restores blocks of rows of `row_bytes` bytes, by dimension or as they are.

    Raises ImportError if zstandard is not installed.
    """

    def __init__(self, row_bytes: int, *, by_dimension: bool) -> None:
        # Imported here, because only runs with --store compact need the library.
        import zstandard

        self.by_dimension = by_dimension
        self.block_bytes = BLOCK_ROWS * row_bytes  # of a block that is not compressed
        if by_dimension:
            # Longer matches are rare between differences, and shorter ones cost more than they save.
            parameters = zstandard.ZstdCompressionParameters.from_level(
                1, source_size=self.block_bytes, min_match=7, write_checksum=False
            )
            self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        else:
            self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=False)
        # A block that was read from a file may ask for any amount of memory.
        window = 1 << max(10, (self.block_bytes - 1).bit_length())
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=window)
        self._error: type[Exception] = zstandard.ZstdError

    def pack(self, rows: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the bytes that store `rows` `[BLOCK_ROWS, row_bytes]`: compressed if that is smaller.

        They are valid until `rows` or `buffer` change. Rows by dimension need a `buffer` of a block. Raises
        MemoryError.
        """
        flat = rows.reshape(-1)
        if self.by_dimension:
            flat = buffer.reshape(-1)
            np.copyto(flat.reshape(-1, BLOCK_ROWS), rows.T)
            numbers = flat.view(NUMBER)
            np.multiply(numbers, DIFFERENCES, out=numbers)
        try:
            packed = self._compressor.compress(flat.data)
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
    blocks = rows.reshape(-1, BLOCK_ROWS, rows.shape[1])
    layout = BlockFormat(rows.shape[1], by_dimension=False)
    return sum(len(layout.pack(block, block)) for block in blocks) / len(rows)
