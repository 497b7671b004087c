"""Storage of compressed rows: blocks of consecutive rows, compressed with zstd, in a ring of bytes.

A block holds `BLOCK_ROWS` rows. Neighbouring rows are nearly equal, so zstd finds most bytes of a row in the row
before it (see `block_format.py`). A block that does not become smaller is stored uncompressed. The newest rows, whose
block is not full yet, are not compressed. They are in the workspace.

Block k holds the rows with ids from k * BLOCK_ROWS on. Positions in the ring of bytes only ever grow: the byte at
position p is `arena.bytes[p % size]`. Blocks follow each other without gaps, and may wrap around.

After each block the oldest blocks are given up until the next block fits, even if it does not become smaller. So a row
that was given up can still be read until the next block is full. A batch that was drawn earlier remains valid that
long, also if another thread reads it.

Blocks of quantized latents are compressed with a dictionary as soon as enough of them are held to train one. The
blocks before it have none.
"""

import bisect
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable import TensorFile
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.block_format import BLOCK_ROWS, FORMAT, READABLE_FORMATS, BlockFormat, undo_differences
from seer_runtime.replay.block_index import (
    SPARE_BLOCKS,
    BlockIndex,
    group_blocks,
    newest_that_fit,
    room_bytes,
)
from seer_runtime.replay.block_zstd import DICTIONARY_BYTES
from seer_runtime.replay.codecs import Codec, IntegerCodec, Views
from seer_runtime.replay.storage import Ids, Layout
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State

DICTIONARY_BLOCKS = 512
"""Blocks that are held before a dictionary is trained."""
SAMPLE_BYTES = 2**18
"""Bytes of evenly spaced blocks on which a dictionary is trained."""
SAMPLES_MIN = 8
"""The fewest blocks for a training, if blocks are large. zstd needs 5."""

ABOUT = ("format", "rows", "offset_bytes")
"""Values of a state: the format of the blocks, the rows in one, and the place of the first in the arena."""
HEAD, TAIL, SIZES, OPEN = "blocks.head", "blocks.tail", "blocks.sizes", "blocks.open"
"""Arrays of a state: the bytes of the blocks up to the end of the arena and the rest, their sizes, the open rows."""
DICTIONARY = "blocks.dictionary"
"""Array of a state of quantized latents: the dictionary, or no bytes. Format 2 does not have it."""


class BlockRows:
    """Compressed blocks of rows in an arena. The row of id i has the slot i % capacity.

    `stack` is the number of consecutive rows that `gather` reads at a time. Only one thread may read at a time, while
    another one writes. `open_block` is the number of the first block, at `head` in the ring. Raises ValueError if the
    arena cannot hold two blocks, and BudgetError if the ledger has no room.
    """

    def __init__(
        self,
        arena: Arena,
        codec: Codec,
        index: BlockIndex,
        *,
        stack: int,
        ledger: Ledger,
        open_block: int = 0,
        head: int = 0,
    ) -> None:
        self.arena = arena
        self.codec = codec
        self.index = index
        self.block_bytes = BLOCK_ROWS * codec.row_bytes  # of a block that is not compressed
        if arena.size_bytes < 2 * self.block_bytes:
            raise ValueError(
                f"an arena of {arena.size_bytes:,} bytes cannot hold two blocks of {self.block_bytes:,} bytes"
            )
        self.oldest_block = self.open_block = open_block
        self.head = head  # position of the next block in the ring
        with ledger.all_or_nothing():
            self._open = ledger.allocate(Line.WORKSPACE, (2 * BLOCK_ROWS, codec.row_bytes), np.uint8)
            group = group_blocks(codec.row_bytes, stack)
            self._decoded = ledger.allocate(Line.WORKSPACE, (group, self.block_bytes), np.uint8)
            single = group if stack == 1 else 0
            self._gathered = ledger.allocate(Line.WORKSPACE, (single, codec.row_bytes), np.uint8)
            self._arranged = ledger.allocate(Line.WORKSPACE, self.block_bytes if single else 0, np.uint8)
            self._dictionary = ledger.allocate(Line.WORKSPACE, DICTIONARY_BYTES if single else 0, np.uint8)
            self._format = BlockFormat(codec.row_bytes, self._arranged if isinstance(codec, IntegerCodec) else None)
        self._dictionary_bytes = 0
        self._decoded_rows = self._decoded.reshape(-1, codec.row_bytes)
        self._places = [block.data for block in self._decoded]
        self._ring = arena.bytes.data
        self._ledger = ledger

    def release(self) -> None:
        """Release the open and decoded rows from the ledger."""
        held = self._open, self._decoded, self._gathered, self._arranged, self._dictionary
        self._ledger.release(Line.WORKSPACE, *held)

    # --- slots ---------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """The number of slots. The bytes of the arena usually limit the rows before the slots do."""
        return len(self.index) * BLOCK_ROWS

    def slots(self, ids: Ids) -> Ids:
        """Return the slots of the rows `ids`."""
        return ids % self.capacity

    def slot(self, row_id: int) -> int:
        """Return the slot of one row."""
        return row_id % self.capacity

    @property
    def used_bytes(self) -> int:
        """The bytes of all blocks in the arena."""
        if self.oldest_block == self.open_block:
            return 0
        return self.head - self.index[self.oldest_block][0]

    def bytes_a_row(self) -> float | None:
        """Return the mean size of a row of all full blocks, or None if there is none."""
        rows = (self.open_block - self.oldest_block) * BLOCK_ROWS
        return self.used_bytes / rows if rows else None

    # --- writing -------------------------------------------------------------------------------------------

    def write(self, row_id: int, observation: NDArray[Any]) -> int:
        """Encode the observation to the open block, and compress the block if it is full.

        Return the id of the oldest row that is still held.
        """
        place = row_id % len(self._open)
        self.codec.encode(observation[None], self._open[place : place + 1])
        if row_id % BLOCK_ROWS == BLOCK_ROWS - 1:
            packed = self.pack(self.open_rows(self.open_block), self.open_block - 1)
            self.place(self.open_block, self.head, packed)
            self.head += len(packed)
            # Last, because another thread may read at any moment.
            self.open_block += 1
            self.give_up()
        return self.oldest_block * BLOCK_ROWS

    def open_rows(self, block: int) -> NDArray[np.uint8]:
        """Return the rows of the open block, or of the one before it, uint8 `[BLOCK_ROWS, row_bytes]`."""
        first = block % 2 * BLOCK_ROWS
        return self._open[first : first + BLOCK_ROWS]

    def pack(self, rows: NDArray[np.uint8], before: int) -> NDArray[np.uint8]:
        """Return the bytes that store `rows` `[BLOCK_ROWS, row_bytes]`, valid until the next call or other rows.

        `before` is the number of the block that was packed before this one, if it is held. Raises MemoryError.
        """
        held = self.open_block - self.oldest_block
        if self._format.by_dimension and not self._dictionary_bytes and held >= DICTIONARY_BLOCKS:
            self._train_dictionary(held)
        has_before = self.oldest_block <= before < self.open_block
        return self._format.pack(rows, self.index[before][1] if has_before else 0)

    def _train_dictionary(self, held: int) -> None:
        """Train a dictionary on some of the `held` blocks. Raises MemoryError."""
        count = min(held, max(SAMPLES_MIN, SAMPLE_BYTES // self.block_bytes))
        samples = range(self.oldest_block, self.open_block, held // count)[:count]
        trained = self._format.trained_dictionary(self._packed(*self.index[block]) for block in samples)
        try:
            self._use_dictionary(trained)
        except ValueError as error:  # zstd's own dictionary is sound, so an allocation failed
            raise MemoryError(str(error)) from error

    def _use_dictionary(self, dictionary: bytes) -> None:
        """Pack further blocks with `dictionary`, if it is not empty. Raises ValueError and MemoryError."""
        if dictionary:
            self._format.use_dictionary(dictionary)
        self._dictionary_bytes = len(dictionary)
        self._dictionary[: len(dictionary)] = np.frombuffer(dictionary, np.uint8)

    def place(self, block: int, position: int, packed: NDArray[np.uint8]) -> None:
        """Store the bytes of a block at a position of the ring."""
        for piece, source in self._pieces(position, len(packed)):
            piece[...] = packed[source]
        self.index[block] = position, len(packed)

    def give_up(self) -> None:
        """Give up the oldest blocks until the next one fits."""
        most = len(self.index) - SPARE_BLOCKS
        room = room_bytes(self.arena.size_bytes, self.codec.row_bytes)
        while self.open_block - self.oldest_block > most or self.used_bytes > room:
            self.oldest_block += 1

    def move(self, bottom: int, distance: int) -> None:
        """Move all blocks, which begin at `bottom`, upwards in the ring by `distance` bytes."""
        buffer = self._decoded.reshape(-1)
        begin = self.head
        while begin > bottom:
            count = min(len(buffer), begin - bottom)
            begin -= count
            for piece, target in self._pieces(begin, count):
                buffer[target] = piece
            for piece, source in self._pieces(begin + distance, count):
                piece[...] = buffer[source]
        self.index.shift(self.oldest_block, self.open_block, distance)
        self.head += distance

    def _pieces(self, position: int, size: int) -> list[tuple[NDArray[np.uint8], slice]]:
        """Return the pieces of the arena at `[position, position + size)` of the ring, and where they are in it."""
        ring = self.arena.bytes
        start = position % len(ring)
        first = min(size, len(ring) - start)
        pieces = [(ring[start : start + first], slice(0, first))]
        if first < size:
            pieces.append((ring[: size - first], slice(first, size)))
        return pieces

    def overwritten_by(self, spare_rows: int, rows: int) -> int:
        """Return 0: a row can be read until the block after the next one is full."""
        if spare_rows > BLOCK_ROWS:
            raise ValueError(f"a batch can be valid for {BLOCK_ROWS} more rows at most, not {spare_rows}")
        return 0

    # --- reading -------------------------------------------------------------------------------------------

    def gather(self, ids: Ids, views: Views, out: NDArray[Any]) -> None:
        """Decode the rows `ids` `[B, S]` to `out`, in groups of stacks whose blocks fit into the workspace."""
        full = self.open_block  # read once, because another thread may write
        numbers = ids // BLOCK_ROWS
        span = int(np.ptp(numbers, axis=1).max(initial=0)) + 1  # the most blocks of a stack
        count = len(self._decoded) // span
        for begin in range(0, len(ids), count):
            some = slice(begin, begin + count)
            blocks = sorted(set(numbers[some].ravel().tolist()))
            self._decode(blocks, full)
            # Blocks are sorted, so the rows of a stack are consecutive here, too.
            places = np.searchsorted(blocks, numbers[some]) * BLOCK_ROWS + ids[some] % BLOCK_ROWS
            rows = self._decoded_rows
            if self._format.by_dimension:
                rows, places = self._pick(places[:, 0].tolist(), blocks, full)
            self.codec.gather(rows, places, views[some], out[some])

    def _decode(self, blocks: list[int], full: int) -> None:
        """Decode the sorted `blocks`. Those from `full` on are open: copied too, unless `_pick` reads them."""
        stored = bisect.bisect_left(blocks, full)
        for place, (block, position, size) in zip(self._places, self.index.places(blocks[:stored]), strict=False):
            self._format.unpack(self._packed(position, size), place, block)
        if self._format.by_dimension:
            undo_differences(self._decoded[:stored])
            return
        for place, block in enumerate(blocks[stored:], stored):
            self._decoded[place] = self.open_rows(block).reshape(-1)

    def _pick(self, places: list[int], blocks: list[int], full: int) -> tuple[NDArray[np.uint8], Ids]:
        """Return the rows at `places` of decoded blocks by dimension, and their places `[B, 1]` there."""
        dimensions = self._decoded.reshape(len(self._decoded), -1, BLOCK_ROWS)
        for target, place in zip(self._gathered, places, strict=False):
            number, row = divmod(place, BLOCK_ROWS)
            target[:] = dimensions[number, :, row] if blocks[number] < full else self.open_rows(blocks[number])[row]
        return self._gathered, np.arange(len(places))[:, None]

    def _packed(self, position: int, size: int) -> memoryview:
        """Return the stored bytes of a block: a view, or a copy if the block wraps around."""
        ring = self._ring
        start = position % len(ring)
        packed = ring[start : start + size]
        if len(packed) < size:
            return memoryview(bytes(packed) + bytes(ring[: size - len(packed)]))
        return packed

    # --- saving --------------------------------------------------------------------------------------------

    def layout(self, appended: int, rows: int) -> Layout:
        """Return the order of the ids."""
        return Layout(appended, rows, max(rows, 1), 0)

    def state(self, appended: int, rows: int) -> State:
        """Return the blocks of the newest `rows` rows as they are, and the open rows."""
        sizes = self.index.sizes((appended - rows) // BLOCK_ROWS, self.open_block)
        begin = self.head - int(sizes.sum())
        pieces = [piece for piece, _ in self._pieces(begin, self.head - begin)]
        offset = begin % self.arena.size_bytes
        arrays: dict[str, NDArray[Any]] = {
            HEAD: pieces[0],
            TAIL: pieces[1] if len(pieces) > 1 else np.zeros(0, np.uint8),
            SIZES: sizes,
            OPEN: self.open_rows(self.open_block)[: appended % BLOCK_ROWS],
        }
        if self._format.by_dimension:
            arrays[DICTIONARY] = self._dictionary[: self._dictionary_bytes]
        return State({"blocks": dict(zip(ABOUT, (FORMAT, BLOCK_ROWS, offset), strict=True))}, arrays)

    def reload(self, layout: Layout, values: Any, tensors: TensorFile) -> int:
        """Read the newest blocks that fit. In an arena of the same size each block returns to its former place."""
        offset = self._check(layout, values, tensors)
        self.open_block = layout.appended // BLOCK_ROWS
        first = (layout.appended - layout.rows) // BLOCK_ROWS
        sizes = np.empty(max(0, self.open_block - first), np.uint32)
        tensors.read_into(SIZES, sizes)
        stored = tensors.shapes[HEAD][0], tensors.shapes[TAIL][0]
        if not ((sizes > 0) & (sizes <= self.block_bytes)).all() or int(sizes.sum(dtype=np.int64)) != sum(stored):
            raise ValueError(f"the sizes of its blocks do not match the {sum(stored):,} bytes that it holds")
        tensors.read_into(OPEN, self.open_rows(self.open_block)[: layout.appended % BLOCK_ROWS])

        most = len(self.index) - SPARE_BLOCKS
        kept = newest_that_fit(sizes[-most:], self.arena.size_bytes, self.codec.row_bytes)
        skipped = int(sizes[: len(sizes) - kept].sum(dtype=np.int64))
        position, size = offset if kept == len(sizes) else 0, sum(stored) - skipped
        self.oldest_block, self.head = self.open_block - kept, position + size
        self.index.fill(self.oldest_block, sizes[len(sizes) - kept :], position)
        self._read_dictionary(tensors)
        self._read_bytes(tensors, skipped, position, size)
        for block in range(self.oldest_block, self.open_block):
            self._format.unpack(self._packed(*self.index[block]), self._places[0], block, exact=True)
        return min(layout.rows, layout.appended - self.oldest_block * BLOCK_ROWS)

    def _check(self, layout: Layout, values: Any, tensors: TensorFile) -> int:
        """Return the place in the arena for a state's first block. Raises ValueError for a state that does not match.

        If the arena has the size of the saved one, it is the former place.
        """
        blocks = values.get("blocks") if isinstance(values, Mapping) else None
        match blocks:
            case {"format": int(found)} if found not in READABLE_FORMATS:
                formats = " and ".join(map(str, READABLE_FORMATS))
                raise ValueError(
                    f"its blocks have format {found}, and only formats {formats} can be read; start a new run"
                )
            case {"format": int(), "rows": int(rows), "offset_bytes": int(offset)} if (
                rows == BLOCK_ROWS and offset >= 0
            ):
                pass
            case _:
                raise ValueError(
                    f"its blocks are {blocks}, not blocks of {BLOCK_ROWS} rows with an offset in format {FORMAT}; "
                    "start a new run"
                )
        full = max(0, layout.appended // BLOCK_ROWS - (layout.appended - layout.rows) // BLOCK_ROWS)
        wanted = {SIZES: (full,), OPEN: (layout.appended % BLOCK_ROWS, self.codec.row_bytes)}
        for name, shape in wanted.items():
            if tensors.shapes[name] != shape:
                raise ValueError(f"its tensor {name} is {tensors.shapes[name]}, not {shape}")
        if any(len(tensors.shapes[name]) != 1 for name in (HEAD, TAIL)):
            raise ValueError("the bytes of its blocks are not a list of bytes")
        if (layout.capacity, layout.first_slot) != (max(layout.rows, 1), 0):
            raise ValueError(f"its rows are not in the order of their ids: {layout}")
        return offset % self.arena.size_bytes

    def _read_dictionary(self, tensors: TensorFile) -> None:
        """Use the dictionary of a state. Raises ValueError if it is too large, or none."""
        shape = tensors.shapes.get(DICTIONARY, (0,))
        if len(shape) != 1 or shape[0] > len(self._dictionary):
            raise ValueError(f"its dictionary is {shape}, not up to {DICTIONARY_BYTES:,} bytes")
        dictionary = self._dictionary[: shape[0]]
        if DICTIONARY in tensors.shapes:
            tensors.read_into(DICTIONARY, dictionary)
        self._use_dictionary(dictionary.tobytes())

    def _read_bytes(self, tensors: TensorFile, skipped: int, position: int, size: int) -> None:
        """Read `size` saved bytes after the first `skipped` into the ring at `position`."""
        head = tensors.shapes[HEAD][0]
        cuts = sorted({0, size, min(max(head - skipped, 0), size), min(-position % self.arena.size_bytes, size)})
        for begin, end in itertools.pairwise(cuts):
            source = skipped + begin
            name, first = (HEAD, source) if source < head else (TAIL, source - head)
            ((piece, _),) = self._pieces(position + begin, end - begin)
            tensors.read_rows_into(name, first, piece)
