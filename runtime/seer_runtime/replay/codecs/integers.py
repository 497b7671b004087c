"""Quantized latents: 8 or 4 bits per element, with a quantization range for each dimension.

An element x of dimension d is stored as `clip(rint((x - low_d) / step_d), 0, 2^bits - 1)` and decoded as
`code * step_d + low_d`, all in float32. `low_d` is an integer multiple of `step_d`. So a zero inside the range, such as
the output of a ReLU, is decoded as exactly zero.
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
"""Margin on each side of the calibration values, as a fraction of their width. Chosen by error (decision 0009)."""
MIN_WIDTH = 0.25
"""Lower bound on the width of a range, as a fraction of the mean width over the dimensions.

A dimension that was constant at the freeze may vary later.
"""
MIN_RELATIVE_STEP = 2.0**-20
"""Lower bound on a step, as a fraction of the largest absolute value in its range. float32 cannot resolve less."""
MIN_STEP = 1e-30
"""Lower bound on a step. It applies if all calibration latents were zero, and prevents an overflow in the division."""
PIECE_BYTES = 2**15
"""Bytes of codes that are decoded at a time. They fit into the CPU cache."""


class IntegerCodec(Latents):
    """Stores each element in 8 or 4 bits. Call `calibrate` or `restore` before `encode`.

    With 4 bits, element i of the first half of a latent and element i of the second half share a byte. The first is in
    the low bits. Raises BudgetError if `ledger` has no room for the ranges and the buffers.
    """

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int, ledger: Ledger) -> None:
        self._levels = 2 ** BITS[name] - 1
        self._bits = BITS[name]
        self._packed = 8 // self._bits  # elements per byte
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
        """The fraction of elements encoded since the calibration that were outside their quantization range."""
        return self._clipped / max(self._encoded, 1)

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set the quantization range of each dimension to its values in `chunks`, plus a margin.

        The margin does not extend a range across zero. Raises ValueError if there are no values or some are not finite.
        """
        # The result arrays serve as buffers for the minima and maxima.
        least, most = self._low, self._step
        least.fill(np.inf)
        most.fill(-np.inf)
        for chunk in chunks:
            flat = chunk.reshape(len(chunk), -1)
            np.minimum(least, flat.min(axis=0), out=least)
            np.maximum(most, flat.max(axis=0), out=most)
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            raise ValueError(f"codec {self.name} needs finite latents for its calibration")
        self._set_ranges(least.astype(np.float64), most.astype(np.float64))
        self._clipped = self._encoded = 0

    def _set_ranges(self, least: NDArray[np.float64], most: NDArray[np.float64]) -> None:
        width = np.maximum(most - least, MIN_WIDTH * (most - least).mean())
        margin = MARGIN[self.name] * width
        low, high = least - margin, least + width + margin
        low = np.where(least >= 0, np.maximum(low, 0), low)
        high = np.where(most < 0, np.minimum(high, 0), high)
        min_step = np.maximum(MIN_RELATIVE_STEP * np.maximum(np.abs(low), np.abs(high)), MIN_STEP)
        self._step[...] = np.maximum((high - low) / self._levels, min_step)
        self._low[...] = np.rint(low / self._step) * self._step

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Encode latents `[B, K, *view_shape]` to `rows` `[B, row_bytes]`, and count the clipped elements."""
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
        """Decode one latent per row, piece by piece. Beside `out`, this needs only a buffer for the codes."""
        augmentations = self.shape[0]
        latents = rows.reshape(len(rows) * augmentations, -1)
        picked = (slots * augmentations + views).ravel()
        decoded = out.reshape(len(picked), -1)
        at_a_time = self._pieces.shape[1]
        for begin in range(0, len(picked), at_a_time):
            piece = picked[begin : begin + at_a_time]
            codes = self._pieces[:, : len(piece)]
            # The slots are always in range. With mode="clip", numpy writes to `out` without a buffer.
            np.take(latents, piece, axis=0, out=codes[0], mode="clip")
            self._decode(codes, decoded[begin : begin + at_a_time])

    def _decode(self, codes: NDArray[np.uint8], out: Array) -> None:
        """Decode the packed `codes[0]` `[B, view_bytes]` to `out` `[B, width]`. The rest of `codes` is a buffer."""
        # Converting first and multiplying then needs no buffer of numpy's, which crashes if it gets no memory for one.
        half = self.view_bytes
        if self._packed == 1:
            np.copyto(out, codes[0])
        else:
            packed, unpacked = codes
            np.bitwise_and(packed, self._levels, out=unpacked)
            np.copyto(out[:, :half], unpacked)
            np.right_shift(packed, self._bits, out=unpacked)
            np.copyto(out[:, half:], unpacked[:, : out.shape[1] - half])
        np.multiply(out, self._step, out=out)
        np.add(out, self._low, out=out)

    def release(self) -> None:
        """Release the memory of the codec from the ledger."""
        held = (self._step, self._low, self._scaled, self._outside, self._codes, self._pieces)
        self._ledger.release(Line.WORKSPACE, *held)

    def state(self) -> State:
        """Return the quantization ranges and the numbers of encoded and clipped elements."""
        counts = {"clipped": self._clipped, "encoded": self._encoded}
        return State(counts, {"step": self._step, "low": self._low})

    def restore(self, values: Mapping[str, Any]) -> None:
        """Set the counters. Raises ValueError for invalid counters or ranges, and KeyError for missing counters."""
        clipped, encoded = values["clipped"], values["encoded"]
        if type(clipped) is not int or type(encoded) is not int or not 0 <= clipped <= encoded:
            raise ValueError(f"invalid codec counters: {clipped} clipped of {encoded} encoded elements")
        with np.errstate(over="ignore", invalid="ignore"):
            highest = self._levels * self._step + self._low
        if not (np.isfinite(highest).all() and np.isfinite(self._low).all() and (self._step > 0).all()):
            raise ValueError("a quantization range must have a step above zero and finite ends")
        self._clipped, self._encoded = clipped, encoded
