"""Rows of K latents whose elements are small whole numbers, each dimension on a grid of its own.

An element x of dimension d is stored as `clip(rint((x - low_d) / step_d), 0, 2^bits - 1)` and decoded as
`code * step_d + low_d`, all in float32. `low_d` is a whole number of steps, so a zero that lies within the grid, as
those of a ReLU do, is decoded as exactly zero.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seer_runtime.replay.codecs.codec import Array, Views
from seer_runtime.replay.codecs.latents import Latents
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State

BITS = {"uint8": 8, "uint4": 4}
MARGIN = {"uint8": 0.25, "uint4": 0.0}
"""Of the width of the values seen at the freeze, added on each side: what costs least error later (decision 9)."""
NARROWEST = 0.25
"""Of the mean width: no dimension's grid is narrower, so that one that was silent at the freeze can speak later."""
FINEST = 2.0**-20
"""Of a dimension's largest value: no step is finer, or float32 could not count them."""
SMALLEST = 1e-30
"""No step is smaller, where all latents were zero: an element that is not would overflow in units of it."""
PIECE_BYTES = 2**15
"""Of codes unpacked at a time, which stay in the cache."""


class IntegerCodec(Latents):
    """Each element stored in 8 or 4 bits; of 4 bits the halves of a latent share bytes, the first one in the low bits.

    It has to be calibrated, or restored, before it encodes. Raises BudgetError where `ledger` has no room for the grids
    and for what encoding and decoding take.
    """

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int, ledger: Ledger) -> None:
        self._levels = 2 ** BITS[name] - 1
        self._bits = BITS[name]
        self._packed = 8 // self._bits  # elements a byte
        width = math.prod(view_shape)
        super().__init__(name, view_shape, augmentations, -(-width // self._packed))
        self._clipped = self._encoded = 0  # elements since the calibration
        self._ledger = ledger

        def array(*shape: int, dtype: DTypeLike) -> NDArray[Any]:
            return ledger.allocate(Line.WORKSPACE, shape, dtype)

        with ledger.all_or_nothing():
            self._step, self._low = array(width, dtype=np.float32), array(width, dtype=np.float32)
            self._scaled = array(augmentations, width, dtype=np.float32)
            self._outside = array(augmentations, width, dtype=np.bool_)
            self._codes = array(augmentations, self._packed * self.view_bytes, dtype=np.uint8)
            pieces = max(1, PIECE_BYTES // self.view_bytes)
            self._pieces = array(self._packed, pieces, self.view_bytes, dtype=np.uint8)

    @property
    def clip_rate(self) -> float:
        """The share of all elements encoded since the calibration that lay outside their dimension's grid."""
        return self._clipped / max(self._encoded, 1)

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Lay each dimension's grid over the values it has in `chunks`, with a margin, and not across zero for it.

        Raises ValueError where there are none, or some that are not finite.
        """
        least, most = self._low, self._step
        least.fill(np.inf)
        most.fill(-np.inf)
        for chunk in chunks:
            flat = chunk.reshape(len(chunk), -1)
            np.minimum(least, flat.min(axis=0), out=least)
            np.maximum(most, flat.max(axis=0), out=most)
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            raise ValueError(f"codec {self.name} needs finite latents to be calibrated on")
        self._lay_grids(least.astype(np.float64), most.astype(np.float64))
        self._clipped = self._encoded = 0

    def _lay_grids(self, least: NDArray[np.float64], most: NDArray[np.float64]) -> None:
        width = np.maximum(most - least, NARROWEST * (most - least).mean())
        margin = MARGIN[self.name] * width
        low, high = least - margin, least + width + margin
        low = np.where(least >= 0, np.maximum(low, 0), low)
        high = np.where(most < 0, np.minimum(high, 0), high)
        finest = np.maximum(FINEST * np.maximum(np.abs(low), np.abs(high)), SMALLEST)
        self._step[...] = np.maximum((high - low) / self._levels, finest)
        self._low[...] = np.rint(low / self._step) * self._step

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write latents `[B, K, *view_shape]` to `rows` `[B, row_bytes]`; counts the elements that are clipped."""
        augmentations, scaled, codes = self.shape[0], self._scaled, self._codes
        for latents, row in zip(values.reshape(len(values), augmentations, -1), rows, strict=True):
            np.subtract(latents, self._low, out=scaled)
            np.divide(scaled, self._step, out=scaled)
            np.rint(scaled, out=scaled)
            self._clipped += int(np.count_nonzero(np.less(scaled, 0, out=self._outside)))
            self._clipped += int(np.count_nonzero(np.greater(scaled, self._levels, out=self._outside)))
            self._encoded += scaled.size
            codes[:, : scaled.shape[1]] = np.clip(scaled, 0, self._levels, out=scaled)
            self._pack(row.reshape(augmentations, -1))

    def _pack(self, target: NDArray[np.uint8]) -> None:
        if self._packed == 1:
            target[...] = self._codes
            return
        first, second = self._codes[:, : self.view_bytes], self._codes[:, self.view_bytes :]
        np.left_shift(second, self._bits, out=second)
        np.bitwise_or(first, second, out=target)

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode one latent a row, piece by piece; only their codes are held beside `out`."""
        augmentations = self.shape[0]
        latents = rows.reshape(len(rows) * augmentations, -1)
        picked = (slots * augmentations + views).ravel()
        decoded = out.reshape(len(picked), -1)
        at_a_time = self._pieces.shape[1]
        for begin in range(0, len(picked), at_a_time):
            piece = picked[begin : begin + at_a_time]
            codes = self._pieces[:, : len(piece)]
            # The caller's slots are in range by construction; "clip" lets numpy write to `out` unbuffered.
            np.take(latents, piece, axis=0, out=codes[0], mode="clip")
            self._decode(codes, decoded[begin : begin + at_a_time])

    def _decode(self, codes: NDArray[np.uint8], out: Array) -> None:
        """Decode packed `codes[0]` `[B, view_bytes]` to `out` `[B, width]`; the rest of `codes` is overwritten."""
        step, half = self._step, self.view_bytes
        if self._packed == 1:
            np.multiply(codes[0], step, out=out)
        else:
            packed, unpacked = codes
            np.bitwise_and(packed, self._levels, out=unpacked)
            np.multiply(unpacked, step[:half], out=out[:, :half])
            np.right_shift(packed, self._bits, out=unpacked)
            np.multiply(unpacked[:, : len(step) - half], step[half:], out=out[:, half:])
        np.add(out, self._low, out=out)

    def release(self) -> None:
        """Give its memory back to the ledger."""
        held = (self._step, self._low, self._scaled, self._outside, self._codes, self._pieces)
        self._ledger.release(Line.WORKSPACE, *held)

    def state(self) -> State:
        """The grids, and how many elements were encoded and how many of them clipped."""
        counts = {"clipped": self._clipped, "encoded": self._encoded}
        return State(counts, {"step": self._step, "low": self._low})

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take on the counts. Raises ValueError for counts or grids that no codec has."""
        clipped, encoded = values["clipped"], values["encoded"]
        if type(clipped) is not int or type(encoded) is not int or not 0 <= clipped <= encoded:
            raise ValueError(f"no codec has clipped {clipped} of {encoded}")
        with np.errstate(over="ignore", invalid="ignore"):
            highest = self._levels * self._step + self._low
        if not (np.isfinite(highest).all() and np.isfinite(self._low).all() and (self._step > 0).all()):
            raise ValueError("the grid of a latent's dimension has a step above zero and finite ends")
        self._clipped, self._encoded = clipped, encoded
