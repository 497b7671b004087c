"""A stand-in for a replay's observations that overwrites each slice as soon as the contract allows it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class SliceBuffer:
    """One buffer of `length` observations that all slices share, as in a replay."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._bytes = np.empty(0, np.uint8)

    def of(self, array: Array) -> "ArrayObservations":
        """Return observations that give out `array` `[B, ...]` through this buffer."""
        return ArrayObservations(self, array)

    def poison(self) -> None:
        """Overwrite the buffer with bytes 0xff: NaN as float32, white as pixels."""
        self._bytes.fill(0xFF)

    def lend(self, values: Array) -> Array:
        """Overwrite the buffer with `values` and return them as a view of it."""
        if self._bytes.nbytes < values.nbytes:
            self.poison()
            self._bytes = np.empty(values.nbytes, np.uint8)
        self.poison()
        lent = self._bytes[: values.nbytes].view(values.dtype).reshape(values.shape)
        lent[...] = values
        return lent


class ArrayObservations:
    """Observations with the interface of `seer_runtime.replay.replay.Observations`; `array` holds all of them."""

    def __init__(self, buffer: SliceBuffer, array: Array) -> None:
        self.array = array
        self._buffer = buffer

    def __len__(self) -> int:
        return len(self.array)

    def slices(self, at_most: int | None = None) -> Iterator[Array]:
        """Yield slices of at most `at_most` observations; each is overwritten before the next one is yielded."""
        length = min(self._buffer.length, at_most or self._buffer.length)
        for begin in range(0, len(self.array), length):
            yield self._buffer.lend(self.array[begin : begin + length])
            self._buffer.poison()
