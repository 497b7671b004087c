"""A naive model of a replay in compressed blocks. It finds out alone which rows are held, and compresses them itself.

It knows how many bytes each block takes, but not where the block is. It has no ring, no index and no open block.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import zstandard
from numpy.typing import NDArray

from seer_runtime.replay.codecs import Codec, latent_codec
from tests.runtime.naive_replay import LEVELS, Encode, NaiveReplay, quantizers

RowOf = Callable[[int], bytes]

ROWS = 8
"""Rows in a block."""


def packed_frames_bytes(rows: list[bytes], before_bytes: int) -> int:
    """Return how many bytes a block of 8 rows takes as it is. `before_bytes` is the size of the one before it, or 0.

    Matches are searched thoroughly if that block took at most a sixteenth of its bytes.
    """
    flat = b"".join(rows)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, source_size=len(flat))
    if before_bytes <= len(flat) / 16:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            5,
            source_size=len(flat),
            strategy=zstandard.STRATEGY_LAZY,
            min_match=6,
            search_log=2,
            hash_log=max(6, len(rows[0]).bit_length() + 1),
        )
    return min(len(zstandard.ZstdCompressor(compression_params=parameters).compress(flat)), len(flat))


def packed_codes_bytes(rows: list[bytes], dictionary: bytes) -> int:
    """Return how many bytes a block of 8 rows takes by dimension, compressed with a dictionary if that is not empty."""
    flat = arranged(rows)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, source_size=len(flat), min_match=7, write_dict_id=False
    )
    given = {"dict_data": zstandard.ZstdCompressionDict(dictionary)} if dictionary else {}
    return min(len(zstandard.ZstdCompressor(compression_params=parameters, **given).compress(flat)), len(flat))


def arranged(rows: list[bytes]) -> bytes:
    """Return a block of 8 rows by dimension."""
    return b"".join(_differences(bytes(values)) for values in zip(*rows, strict=True))


def trained_dictionary(blocks: list[bytes]) -> bytes:
    """Return zstd's dictionary for arranged blocks, or no bytes if it refuses them."""
    try:
        trained = zstandard.train_dictionary(4_096, blocks, k=2_048, d=8, f=16, level=1)
    except zstandard.ZstdError:
        return b""
    return bytes(trained.as_bytes())


def _differences(values: bytes) -> bytes:
    """Return the values of one dimension, oldest first, each less the one before it and less a borrow."""
    differences, borrow = [], 0
    for before, value in zip(b"\0" + values, values, strict=False):
        difference = value - before - borrow
        differences.append(difference % 256)
        borrow = int(difference < 0)
    return bytes(differences)


class NaiveBlocks(NaiveReplay):
    """A log of every row ever appended. The newest blocks of them are held in an arena of `size_bytes` bytes.

    A block of 8 rows takes as many bytes as its zstd frame, or as the rows if that is not smaller. Blocks of quantized
    latents are arranged by dimension first. They have a dictionary as soon as one can be trained. After each block, the
    oldest blocks are given up until one more block would fit that is not compressed, and until at most as many are held
    as `limit` rows need.
    """

    dictionary_blocks = 512
    """Blocks that are held when a dictionary is trained."""

    def __init__(
        self, size_bytes: int, limit: int, stack: int, frame: tuple[int, ...], crop: tuple[int, int] | None = None
    ) -> None:
        super().__init__((-(-limit // ROWS) + 2) * ROWS, stack, frame, crop)
        self.size_bytes = size_bytes
        self.encoded: list[int] = []  # the rows that the conversion encoded, in order
        self._block_bytes = ROWS * math.prod(frame)
        self._row_of: RowOf = self._frame_row
        self._sizes: dict[int, int] = {}  # bytes of each held block
        self._full = 0  # number of blocks ever filled
        self.dictionary = b""

    def used_bytes(self) -> int:
        """Return the bytes of all held blocks."""
        self._fill_blocks()
        return sum(self._sizes.values())

    def held(self) -> list[int]:
        self._fill_blocks()
        oldest = min(self._sizes, default=self._full) * ROWS
        return list(range(max(oldest, self._dropped_before), len(self.rows)))

    def resize(self, size_bytes: int, limit: int) -> None:
        """Move to an arena of another size, and to room for `limit` rows. Give up blocks that do not fit."""
        self._fill_blocks()
        self.size_bytes, self.capacity = size_bytes, (-(-limit // ROWS) + 2) * ROWS
        self._give_up()

    # --- blocks ---

    def _fill_blocks(self) -> None:
        """Compress the blocks that have become full since the last call."""
        while self._full < len(self.rows) // ROWS:
            self._sizes[self._full] = self._packed_bytes(self._full, self._full - 1)
            self._full += 1
            self._give_up()

    def _packed_bytes(self, block: int, before: int) -> int:
        """Return the bytes of a block. `before` is the number of the one that was packed before it."""
        if self._row_of == self._frame_row or self.element not in LEVELS:
            return packed_frames_bytes(self._rows(block), self._sizes.get(before, 0))
        held = sorted(self._sizes)
        if not self.dictionary and len(held) >= self.dictionary_blocks:
            count = min(len(held), max(8, 2**18 // self._block_bytes))
            samples = held[:: len(held) // count][:count]
            self.dictionary = trained_dictionary([arranged(self._rows(sample)) for sample in samples])
        return packed_codes_bytes(self._rows(block), self.dictionary)

    def _rows(self, block: int) -> list[bytes]:
        return [self._row_of(row) for row in range(block * ROWS, block * ROWS + ROWS)]

    def _give_up(self) -> None:
        while (
            sum(self._sizes.values()) + self._block_bytes > self.size_bytes
            or len(self._sizes) > self.capacity // ROWS - 2
        ):
            del self._sizes[min(self._sizes)]

    def _frame_row(self, row: int) -> bytes:
        episode, step = self.rows[row]
        return episode.frames[step].tobytes()

    def _latent_row(self, codec: Codec, row: int) -> bytes:
        """Return the bytes of a row of latents. Rows of a block that were not encoded are zero."""
        stored = np.zeros((1, codec.row_bytes), np.uint8)
        if row in self.offsets:
            latents = [self.latent(row, k) for k in range(len(self.offsets[row]))]
            codec.encode(np.stack(latents)[None], stored)
        return stored.tobytes()

    # --- the conversion ---

    def convert(
        self,
        encode: Encode,
        capacity: int,
        element: str,
        augmentations: int = 1,
        rng: np.random.Generator | None = None,
        seen: NDArray[np.float32] | None = None,
    ) -> list[int]:
        """Convert the newest rows first. Return the ids of the rows kept. `capacity` plays no part.

        If the latents of a block do not fit, the oldest frames are given up: at least a 64th of the arena at a time.
        """
        rng, frames = rng or np.random.default_rng(0), self._sizes
        oldest = min(self.held(), default=len(self.rows))
        first = self._first_whole(oldest)
        self._block_bytes, self._row_of = self._latent_rows(encode, element, augmentations, seen)
        self.encode, self.element = encode, element

        def encode_rows(begin: int, end: int) -> int:
            begin = max(begin, first)
            for row in range(begin, end):
                self.offsets[row] = self.draw_crops(rng, augmentations)
                self.encoded.append(row)
            return begin

        encode_rows(self._full * ROWS, len(self.rows))
        kept_from, free, self._sizes = self._full * ROWS, self.size_bytes - sum(frames.values()), {}
        while frames and kept_from > first:
            block = max(frames)
            encoded_from = encode_rows(block * ROWS, block * ROWS + ROWS)
            size = self._packed_bytes(block, block + 1)
            free += frames.pop(block)
            if size > free:
                wanted, before = max(size - free, self.size_bytes // 64), free
                while frames and free - before < wanted:
                    free += frames.pop(min(frames))
                first = min(self._first_whole(min(frames, default=block) * ROWS), encoded_from)
            if size > free:
                break
            free -= size
            self._sizes[block] = size
            kept_from = block * ROWS
        self._give_up()
        kept_from = min(self._sizes, default=self._full) * ROWS
        kept = sorted(row for row in self.encoded if row >= kept_from)
        self._dropped_before = kept[0] if kept else len(self.rows)
        return kept

    def _first_whole(self, oldest: int) -> int:
        """Return the oldest row with a whole stack, if `oldest` is the oldest row that is held."""
        reaches = ((row, min(self.age(row), self.stack_size - 1)) for row in range(oldest, len(self.rows)))
        return next((row for row, reach in reaches if row - reach >= oldest), len(self.rows))

    def _latent_rows(
        self, encode: Encode, element: str, augmentations: int, seen: NDArray[np.float32] | None
    ) -> tuple[int, RowOf]:
        """Return the bytes of a block of latents, and a function that returns those of a row."""
        (height, width), channels = self.crop, self.stack_size * math.prod(self.frame[:-2])
        shape = encode(np.zeros((1, channels, height, width), np.uint8)).shape[1:]
        codec = latent_codec(element, shape, augmentations)
        if seen is not None:
            codec.calibrate([seen[:2], seen[2:]])
            self.quantizers = quantizers(seen, LEVELS[element])
        return ROWS * codec.row_bytes, functools.partial(self._latent_row, codec)
