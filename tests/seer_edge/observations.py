"""Observations of a batch from arrays, as unkind as a replay's may be."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class SliceBuffer:
    """Stands for a replay: all observations made of it are given out in its one buffer of `length` of them."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._bytes = np.empty(0, np.uint8)

    def of(self, array: Array) -> "ArrayObservations":
        """The observations `array` `[B, …]`."""
        return ArrayObservations(self, array)

    def poison(self) -> None:
        """Spoil what was given out before: 0xff are NaN as float32, and white as pixels."""
        self._bytes.fill(0xFF)

    def lend(self, values: Array) -> Array:
        """`values` in the buffer, over all that was in it."""
        if self._bytes.nbytes < values.nbytes:
            self.poison()
            self._bytes = np.empty(values.nbytes, np.uint8)
        self.poison()
        lent = self._bytes[: values.nbytes].view(values.dtype).reshape(values.shape)
        lent[...] = values
        return lent


class ArrayObservations:
    """The interface of `seer_runtime.replay.replay.Observations`; `array` is what it gives, whole."""

    def __init__(self, buffer: SliceBuffer, array: Array) -> None:
        self.array = array
        self._buffer = buffer

    def __len__(self) -> int:
        return len(self.array)

    def slices(self, at_most: int | None = None) -> Iterator[Array]:
        """Each spoiled when the next is asked for, of these observations or of others in the same buffer."""
        length = min(self._buffer.length, at_most or self._buffer.length)
        for begin in range(0, len(self.array), length):
            yield self._buffer.lend(self.array[begin : begin + length])
            self._buffer.poison()
