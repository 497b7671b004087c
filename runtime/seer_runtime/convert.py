"""In-place conversion of a store of frames into a store of latents (design, section 4, step 4).

The newest rows are rotated into order and right-aligned in the arena, then encoded chunk by chunk from the front:
the latent of row j ends at or before the first frame that is still needed, so no second buffer exists.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.codecs import Codec
from seer_runtime.ledger import Ledger, Line
from seer_runtime.store import Columns, RowStore

CHUNK_ROWS = 16

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Stacks `[B, stack, *frame_shape]` uint8 to latents `[B, *latent_shape]` float32."""


def conversion_bytes(stack: int, frame_bytes: int) -> int:
    """Workspace that a conversion takes while it runs."""
    return (stack - 1 + CHUNK_ROWS + CHUNK_ROWS * stack) * frame_bytes


def first_kept(store: RowStore, latent_capacity: int) -> int:
    """Id of the oldest row that a conversion to `latent_capacity` rows keeps.

    From it on every row has a whole stack and all rows fit.
    """
    oldest = store.oldest
    head = np.arange(oldest, min(oldest + store.stack - 1, store.appended))
    broken = np.flatnonzero(~store.stack_is_whole(head))
    whole_from = oldest + (int(broken[-1]) + 1 if len(broken) else 0)
    return max(whole_from, store.appended - latent_capacity)


class Conversion:
    """A conversion of `store` to rows of `codec`, with all memory it needs taken beforehand.

    Raises BudgetError where the ledger has no room, ValueError where not one latent fits; the store is as it was.
    """

    def __init__(self, store: RowStore, codec: Codec, ledger: Ledger) -> None:
        capacity = store.arena.size_bytes // codec.row_bytes
        if capacity < 1:
            raise ValueError(f"a latent row of {codec.row_bytes} bytes does not fit {store.arena.size_bytes} bytes")
        self._store, self._codec, self._ledger = store, codec, ledger
        self.first = first_kept(store, capacity)
        reach, frame_shape = store.stack - 1, store.codec.shape
        with ledger.all_or_nothing():
            self._columns = store.allocate_columns(capacity)
            self._window = ledger.allocate(Line.WORKSPACE, (reach + CHUNK_ROWS, *frame_shape), np.uint8)
            self._stacks = ledger.allocate(Line.WORKSPACE, (CHUNK_ROWS, store.stack, *frame_shape), np.uint8)

    def cancel(self) -> None:
        """Give the memory back without converting."""
        self._ledger.release(Line.COLUMNS, *self._columns.arrays())
        self._ledger.release(Line.WORKSPACE, self._window, self._stacks)

    def run(self, encode: Encode) -> int:
        """Turn frames into latents in the same bytes; returns the number of rows kept.

        An exception out of `encode` leaves the store unusable.
        """
        store, codec, columns, window, stacks = self._store, self._codec, self._columns, self._window, self._stacks
        reach, frame_shape = store.stack - 1, store.codec.shape
        kept = store.appended - self.first
        _copy_columns(store, self.first, columns)
        _carry_frames_before(store, self.first, window[:reach])
        frames = _right_align(store, kept, stacks)
        latents = store.arena.rows(codec.row_bytes)
        for begin in range(0, kept, CHUNK_ROWS):
            end = min(begin + CHUNK_ROWS, kept)
            count = end - begin
            window[reach : reach + count] = frames[begin:end].reshape(count, *frame_shape)
            _stack(window, columns.age[begin:end], stacks)
            codec.encode(encode(stacks[:count]), latents[begin:end])
            window[:reach] = window[count : count + reach].copy()
        store.adopt(codec, columns, kept)
        self._ledger.release(Line.WORKSPACE, window, stacks)
        return kept


def _copy_columns(store: RowStore, first: int, columns: Columns) -> None:
    slots = store.slots(np.arange(first, store.appended))
    for new, old in zip(columns.arrays(), store.columns.arrays(), strict=True):
        new[: len(slots)] = old[slots]


def _carry_frames_before(store: RowStore, first: int, carried: NDArray[np.uint8]) -> None:
    """Frames of the rows just before `first`, which its stack may need though they are not kept."""
    ids = np.arange(first - len(carried), first)
    held = store.holds(ids)
    for index in np.flatnonzero(held):
        store.codec.gather(store.data, store.slots(ids[index : index + 1]), carried[index : index + 1])


def _stack(window: NDArray[np.uint8], ages: NDArray[np.uint8], stacks: NDArray[np.uint8]) -> None:
    """Stacks `[B, S, …]` of consecutive rows from a window of S - 1 + B frames; zero before an episode's first."""
    count, depth = len(ages), stacks.shape[1]
    for position in range(depth):
        stacks[:count, position] = window[position : position + count]
        stacks[:count, position][ages < depth - 1 - position] = 0


def _right_align(store: RowStore, kept: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the newest `kept` frames in order against the arena's end, in place; returns them `[kept, P]`."""
    row_bytes = store.codec.row_bytes
    start = store.slot(store.oldest)
    if start + store.rows > store.capacity:
        rotate_rows(store.data, start, buffer.reshape(-1, row_bytes))
        start = 0
    source = (start + store.rows - kept) * row_bytes
    size_bytes = kept * row_bytes
    target = store.arena.size_bytes - size_bytes
    base = store.arena.bytes.ctypes.data
    # memmove, because numpy copies the whole of an assignment whose two sides overlap.
    ctypes.memmove(base + target, base + source, size_bytes)
    return store.arena.bytes[target:].reshape(kept, row_bytes)


def rotate_rows(rows: NDArray[Any], shift: int, buffer: NDArray[Any]) -> None:
    """Rotate `rows` `[N, P]` left by `shift` in place, through a `buffer` `[M, P]` of any M >= 1.

    Three reversals, since numpy.roll makes a second copy of everything.
    """
    _reverse(rows[:shift], buffer)
    _reverse(rows[shift:], buffer)
    _reverse(rows, buffer)


def _reverse(rows: NDArray[Any], buffer: NDArray[Any]) -> None:
    low, high = 0, len(rows)
    while high - low > 1:
        count = min(len(buffer), (high - low) // 2)
        buffer[:count] = rows[low : low + count]
        rows[low : low + count] = rows[high - count : high][::-1]
        rows[high - count : high] = buffer[:count][::-1]
        low, high = low + count, high - count
