"""Convert compressed blocks of frames to compressed blocks of latents in place.

The conversion begins with the newest block and goes back. The bytes of a block of frames are free as soon as its rows
are encoded. The latents are written from the end of the free bytes downwards:

    ring of bytes   | blocks of frames, oldest first ->  |  free bytes  |  <- blocks of latents, newest last |

So the newest rows are kept first. If latents would reach frames that are still needed, the oldest frames are given up,
and the latents move into their place.
"""

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.block_format import BLOCK_ROWS
from seer_runtime.replay.blocks import BlockRows
from seer_runtime.replay.codecs import Codec
from seer_runtime.replay.convert import Encode, Progress, chunk_rows, first_kept
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import Ledger, Line

MOVES = 64
"""The latents move at most about this often, because each time at least this fraction of the arena becomes free."""


def block_conversion_bytes(stack: int, view_bytes: int, augmentations: int, latent_row_bytes: int) -> int:
    """Return the workspace bytes of a conversion. `view_bytes` is the size of one cropped frame."""
    rows = min(BLOCK_ROWS, chunk_rows(augmentations))
    return rows * augmentations * stack * view_bytes + BLOCK_ROWS * latent_row_bytes


class BlockConversion:
    """A conversion of a `store` of `BlockRows` to rows of `codec`. The constructor allocates all memory that it needs.

    Each row is encoded under K random views from `rng`, where K is the first dimension of `codec.shape`. Raises
    BudgetError if the ledger has no room, and ValueError if the arena cannot hold two blocks of latents. Both leave the
    store unchanged.
    """

    moves_rows = False

    def __init__(self, store: RowStore, codec: Codec, rng: np.random.Generator, ledger: Ledger) -> None:
        frames = store.storage
        assert isinstance(frames, BlockRows)
        self._store, self._frames, self._rng, self._ledger = store, frames, rng, ledger
        self.first = first_kept(store, store.capacity)
        rows = min(BLOCK_ROWS, chunk_rows(codec.shape[0]))
        views = (rows * codec.shape[0], *store.observation_shape)
        with ledger.all_or_nothing():
            self._latents = BlockRows(
                store.arena,
                codec,
                frames.index,
                stack=1,
                ledger=ledger,
                open_block=frames.open_block,
                head=frames.head,
            )
            self._views = ledger.allocate(Line.WORKSPACE, views, np.uint8)
            self._encoded = ledger.allocate(Line.WORKSPACE, (BLOCK_ROWS, codec.row_bytes), np.uint8)

    def cancel(self) -> None:
        """Release the memory without converting."""
        self._latents.release()
        self._ledger.release(Line.WORKSPACE, self._views, self._encoded)

    def run(self, encode: Encode, progress: Progress | None = None) -> int:
        """Convert the frames to latents with `encode`. Return the number of rows kept.

        If `encode` raises, the store is unusable afterwards.
        """
        store, frames, latents = self._store, self._frames, self._latents
        total = store.appended - self.first
        opened = frames.open_block * BLOCK_ROWS
        self._encode(encode, max(opened, self.first), store.appended, latents.open_rows(frames.open_block))
        # Latents fill the ring downwards, to just behind the last byte of the oldest frames.
        latents.head = frames.head - frames.used_bytes + store.arena.size_bytes
        bottom = latents.head
        while latents.oldest_block * BLOCK_ROWS > self.first and frames.oldest_block < latents.oldest_block:
            block = latents.oldest_block - 1
            begin = block * BLOCK_ROWS
            self._encode(encode, max(begin, self.first), begin + BLOCK_ROWS, self._encoded)
            packed = latents.pack(self._encoded, block + 1)
            frames.open_block = block  # its bytes are free now
            top = frames.index[block][0]
            bottom += self._make_room(top + len(packed) - bottom, bottom, max(begin, self.first))
            if top + len(packed) > bottom:
                break  # no older frames are left to give up
            bottom -= len(packed)
            latents.place(block, bottom, packed)
            latents.oldest_block = block
            if progress is not None:
                progress(store.appended - max(begin, self.first), total)
        latents.give_up()
        kept = store.appended - max(self.first, latents.oldest_block * BLOCK_ROWS)
        store.adopt(latents, store.columns, kept)
        frames.release()
        self._ledger.release(Line.WORKSPACE, self._views, self._encoded)
        return kept

    def _encode(self, encode: Encode, begin: int, end: int, out: NDArray[np.uint8]) -> None:
        """Encode the rows `[begin, end)` of one block to their places in `out` `[BLOCK_ROWS, row_bytes]`."""
        store, codec = self._store, self._latents.codec
        augmentations = codec.shape[0]
        out[: begin % BLOCK_ROWS] = 0
        most = len(self._views) // augmentations
        for first in range(begin, end, most):
            ids = np.arange(first, min(first + most, end)).repeat(augmentations)
            stacks = self._views[: len(ids)]
            store.gather(ids, store.codec.draw(self._rng, len(ids)), stacks)
            count = len(ids) // augmentations
            place = first % BLOCK_ROWS
            encoded = encode(stacks).reshape(count, augmentations, *codec.view_shape)
            codec.encode(encoded, out[place : place + count])

    def _make_room(self, missing: int, bottom: int, encoded_from: int) -> int:
        """Give up the oldest frames if `missing` bytes are above 0, and move the latents from `bottom` on upwards.

        The rows from `encoded_from` on are encoded already. Return by how many bytes the latents moved.
        """
        frames, latents = self._frames, self._latents
        if missing <= 0:
            return 0
        before = frames.index[frames.oldest_block][0]
        wanted = max(missing, frames.arena.size_bytes // MOVES)
        while frames.oldest_block < frames.open_block and frames.index[frames.oldest_block][0] - before < wanted:
            frames.oldest_block += 1
        gained = frames.index[frames.oldest_block][0] - before
        latents.move(bottom, gained)
        self._store.rows = self._store.appended - frames.oldest_block * BLOCK_ROWS
        # The next rows have lost their stacks. Rows that are encoded no longer need theirs.
        self.first = min(first_kept(self._store, self._store.capacity), encoded_from)
        return gained
