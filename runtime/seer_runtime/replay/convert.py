"""Convert rows of a fixed size from frames to latents in place (docs/design.md, section 4).

The conversion moves the newest frames, in order, to the end of the arena. Then it encodes them chunk by chunk and
writes the latents from the start of the arena. The latents of a chunk never reach a frame that is still needed, so no
second buffer is necessary.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.codecs import Codec
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import Columns, RowStore
from seer_runtime.system.ledger import Ledger, Line

CHUNK_STACKS = 16
"""Stacks per call of the encoder. More would be faster but need more memory for the activations."""

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps frame stacks, uint8 `[B, C, h, w]`, to latents, float32 `[B, *view_shape]`."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that were encoded, and of all rows to encode."""


def chunk_rows(augmentations: int) -> int:
    """Return the number of rows per chunk, if each row has `augmentations` views."""
    return max(1, CHUNK_STACKS // augmentations)


def conversion_bytes(stack: int, frame_bytes: int, view_bytes: int, augmentations: int) -> int:
    """Return the workspace bytes of a conversion. `view_bytes` is the size of one cropped frame."""
    rows = chunk_rows(augmentations)
    return (stack - 1 + rows) * frame_bytes + rows * augmentations * stack * view_bytes


def first_kept(store: RowStore, latent_capacity: int) -> int:
    """Return the id of the oldest row that a conversion to `latent_capacity` rows keeps.

    All rows from this one on fit into the arena and have whole stacks.
    """
    oldest = store.oldest
    head = np.arange(oldest, min(oldest + store.stack - 1, store.appended))
    broken = np.flatnonzero(~store.stack_is_whole(head))
    whole_from = oldest + (int(broken[-1]) + 1 if len(broken) else 0)
    return max(whole_from, store.appended - latent_capacity)


class Conversion:
    """A conversion of a `store` of `FixedRows` to rows of `codec`. The constructor allocates all memory that it needs.

    Each row is encoded under K random views from `rng`, where K is the first dimension of `codec.shape`. Raises
    BudgetError if the ledger has no room, and ValueError if the arena cannot hold one latent row. Both leave the store
    unchanged.
    """

    moves_rows = True  # to other slots

    def __init__(self, store: RowStore, codec: Codec, rng: np.random.Generator, ledger: Ledger) -> None:
        capacity = store.arena.size_bytes // codec.row_bytes
        if capacity < 1:
            raise ValueError(
                f"a latent row of {codec.row_bytes} bytes does not fit into an arena of {store.arena.size_bytes} bytes"
            )
        self._store, self._codec, self._rng, self._ledger = store, codec, rng, ledger
        self.first = first_kept(store, capacity)
        frames, augmentations = store.codec, codec.shape[0]
        rows = chunk_rows(augmentations)
        window_shape = (store.stack - 1 + rows, *frames.shape)
        views_shape = (rows, augmentations, store.stack, *frames.view_shape)
        with ledger.all_or_nothing():
            self._columns = store.allocate_columns(capacity)
            self._window = ledger.allocate(Line.WORKSPACE, window_shape, np.uint8)
            self._views = ledger.allocate(Line.WORKSPACE, views_shape, np.uint8)

    def cancel(self) -> None:
        """Release the memory without converting."""
        self._ledger.release(Line.COLUMNS, *self._columns.arrays())
        self._ledger.release(Line.WORKSPACE, self._window, self._views)

    def run(self, encode: Encode, progress: Progress | None = None) -> int:
        """Convert the frames to latents with `encode`. Return the number of rows kept.

        If `encode` raises, the store is unusable afterwards.
        """
        store, codec, columns, window = self._store, self._codec, self._columns, self._window
        reach, augmentations = store.stack - 1, codec.shape[0]
        kept = store.appended - self.first
        _copy_columns(store, self.first, columns)
        _carry_frames_before(store, self.first, window[:reach])
        frames = _right_align(store, kept, window[reach:])
        latents = store.arena.rows(codec.row_bytes)
        for begin in range(0, kept, len(self._views)):
            end = min(begin + len(self._views), kept)
            count = end - begin
            window[reach : reach + count] = frames[begin:end].reshape(count, *store.codec.shape)
            stacks = self._cut_views(columns.age[begin:end])
            encoded = encode(stacks.reshape(-1, *store.observation_shape))
            codec.encode(encoded.reshape(count, augmentations, *codec.view_shape), latents[begin:end])
            window[:reach] = window[count : count + reach].copy()
            if progress is not None:
                progress(end, kept)
        store.adopt(FixedRows(store.arena, codec, origin=self.first), columns, kept)
        self._ledger.release(Line.WORKSPACE, window, self._views)
        return kept

    def _cut_views(self, ages: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the stacks of the window's rows under random views, uint8 `[B, K, S, …]`.

        Frames before the first of a scene are zero. `ages` `[B]` counts the rows since the scene began.
        """
        store, views = self._store, self._views[: len(ages)]
        augmentations, depth = views.shape[1:3]
        drawn = store.codec.draw(self._rng, len(ages) * augmentations)
        window = self._window.reshape(len(self._window), -1)
        for row, age in enumerate(ages):
            slots = np.broadcast_to(np.arange(row, row + depth), (augmentations, depth))
            views_of_row = drawn[row * augmentations : (row + 1) * augmentations]
            store.codec.gather(window, slots, views_of_row, views[row])
            views[row, :, : max(depth - 1 - int(age), 0)] = 0
        return views


def _copy_columns(store: RowStore, first: int, columns: Columns) -> None:
    slots = store.slots(np.arange(first, store.appended))
    for new, old in zip(columns.arrays(), store.columns.arrays(), strict=True):
        new[: len(slots)] = old[slots]


def _carry_frames_before(store: RowStore, first: int, carried: NDArray[np.uint8]) -> None:
    """Copy the frames before `first` to `carried`. Their rows are not kept, but the stack of `first` needs them."""
    ids, frames = np.arange(first - len(carried), first), store.arena.rows(store.codec.row_bytes)
    held = store.holds(ids)
    for index in np.flatnonzero(held):
        carried[index] = frames[store.slot(int(ids[index]))].reshape(store.codec.shape)


def _right_align(store: RowStore, kept: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Move the newest `kept` frames, in order, to the end of the arena. Return them, uint8 `[kept, row_bytes]`."""
    row_bytes = store.codec.row_bytes
    start = store.slot(store.oldest)
    if start + store.rows > store.capacity:
        rotate_rows(store.arena.rows(row_bytes), start, buffer.reshape(-1, row_bytes))
        start = 0
    source = (start + store.rows - kept) * row_bytes
    size_bytes = kept * row_bytes
    target = store.arena.size_bytes - size_bytes
    base = store.arena.bytes.ctypes.data
    # For overlapping arrays, a numpy assignment would copy the whole source first.
    ctypes.memmove(base + target, base + source, size_bytes)
    return store.arena.bytes[target:].reshape(kept, row_bytes)


def rotate_rows(rows: NDArray[Any], shift: int, buffer: NDArray[Any]) -> None:
    """Rotate `rows` `[N, P]` left by `shift` in place, with a `buffer` `[M, P]` of any M >= 1.

    A rotation is three reversals. numpy.roll would need a second copy of all rows.
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
