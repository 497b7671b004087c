"""zstd for blocks of rows: how thoroughly it searches for matches, and the dictionary (decision 0016)."""

from collections.abc import Iterable
from typing import Any

WELL_COMPRESSED = 1 / 16
"""The largest fraction of its bytes that a block takes after compression, if the next one is searched thoroughly."""
DICTIONARY_BYTES = 4_096
"""The largest dictionary."""
SEGMENT_BYTES = 2_048
"""Length of the pieces of blocks that a dictionary has. Chosen by the bytes of a row (decision 0016)."""
COUNTERS_LOG = 16
"""Binary logarithm of the number of counters for a training. It takes 1 MB, and with zstd's 2^20 counters 11 MB."""
NO_MEMORY = "not enough memory"
"""Part of the message of zstd if an allocation failed."""


class Zstd:
    """Compresses and restores blocks of `block_bytes` bytes.

    `fast` and `thorough` are a level of zstd, and the parameters that differ from it. Raises ImportError if zstandard
    is not installed.
    """

    def __init__(self, block_bytes: int, fast: dict[str, int], thorough: dict[str, int] | None = None) -> None:
        # Imported here, because only runs with --store compact need the library.
        import zstandard

        self._library: Any = zstandard
        self._block_bytes = block_bytes
        self._fast_parameters = fast
        self._decompressor = self._new_decompressor()
        self._fast = self._thorough = self._new_compressor(fast)
        if thorough is not None:
            self._thorough = self._new_compressor(thorough)

    def _new_compressor(self, parameters: dict[str, int], **dictionary: Any) -> Any:
        changes = {name: value for name, value in parameters.items() if name != "level"}
        made = self._library.ZstdCompressionParameters.from_level(
            parameters["level"], source_size=self._block_bytes, write_checksum=False, write_dict_id=False, **changes
        )
        return self._library.ZstdCompressor(compression_params=made, **dictionary)

    def _new_decompressor(self, **dictionary: Any) -> Any:
        # A block that was read from a file may ask for any amount of memory.
        window = 1 << max(10, (self._block_bytes - 1).bit_length())
        return self._library.ZstdDecompressor(max_window_size=window, **dictionary)

    def compress(self, block: memoryview, before_bytes: int) -> bytes:
        """Return a compressed block, which may be larger. Raises MemoryError.

        `before_bytes` is the size of the block that was compressed before it, or 0. If that was large, this one will
        be, too. A thorough search would take long and save little.
        """
        compressor = self._thorough if before_bytes <= WELL_COMPRESSED * self._block_bytes else self._fast
        try:
            packed: bytes = compressor.compress(block)
        except self._library.ZstdError as error:  # only because an allocation failed
            raise MemoryError(str(error)) from error
        return packed

    def decompress(self, packed: memoryview, out: memoryview, *, exact: bool = False) -> None:
        """Restore a block to `out`.

        Raises ValueError if that fails, and with `exact` also if the block has more bytes. Raises MemoryError.
        """
        try:
            reader = self._decompressor.stream_reader(packed)
            count = reader.readinto(out)
            more = exact and count == len(out) and len(reader.read(1)) > 0
        except self._library.ZstdError as error:
            raise _translated(error, "cannot be decompressed") from error
        if count != len(out):
            raise ValueError(f"holds {count:,} bytes, not {len(out):,}")
        if more:
            raise ValueError(f"holds more than {len(out):,} bytes")

    # --- the dictionary ------------------------------------------------------------------------------------

    def trained(self, blocks: Iterable[bytes]) -> bytes:
        """Return a dictionary for blocks that resemble `blocks`: equal ones for equal blocks.

        It is empty if zstd refuses the blocks, because they are too few or too short. Raises MemoryError.
        """
        try:
            dictionary = self._library.train_dictionary(
                DICTIONARY_BYTES, list(blocks), k=SEGMENT_BYTES, d=8, f=COUNTERS_LOG, level=1
            )
        except self._library.ZstdError as error:
            failure = _translated(error, "too few bytes")
            if isinstance(failure, MemoryError):
                raise failure from error
            return b""
        return bytes(dictionary.as_bytes())

    def use(self, dictionary: bytes) -> None:
        """Compress further blocks with `dictionary`. Blocks that were compressed without one stay readable.

        Raises ValueError for bytes that are no dictionary, and MemoryError.
        """
        try:
            data = self._library.ZstdCompressionDict(dictionary, dict_type=self._library.DICT_TYPE_FULLDICT)
            compressor = self._new_compressor(self._fast_parameters, dict_data=data)
            decompressor = self._new_decompressor(dict_data=data)
            # zstd checks some parts when a dictionary is first used.
            decompressor.stream_reader(compressor.compress(b"")).read(1)
        except self._library.ZstdError as error:
            raise _translated(error, "its dictionary cannot be used") from error
        # The decompressor first, because another thread may read at any moment.
        self._decompressor = decompressor
        self._fast = self._thorough = compressor


def _translated(error: Exception, problem: str) -> Exception:
    """Return an error of zstd as a MemoryError if an allocation failed, else as a ValueError that names the problem."""
    if NO_MEMORY in str(error):
        return MemoryError(str(error))
    return ValueError(f"{problem}: {error}")
