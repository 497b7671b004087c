"""The byte ledger: allocates every array of the data plane, and enforces a cap on each kind of use."""

import enum
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

WORKSPACE_CAP_BYTES = 8_000_000


class BudgetError(Exception):
    """Raised when an allocation would take a ledger line above its cap."""


class Line(enum.StrEnum):
    """The purpose of an allocation. `OBSERVATIONS` is the arena: it holds all observations of the replay."""

    OBSERVATIONS = "observations"
    WORKSPACE = "workspace"
    COLUMNS = "columns"
    PRIORITIES = "priorities"
    INDEX = "index"


class Ledger:
    """Counts the current and peak bytes of each line, and refuses allocations above its cap.

    `caps_bytes` gives the cap of each line. A line without a cap is only counted. The operating system zeroes memory
    on the first touch, so a large allocation adds to the RSS only as it fills.
    """

    def __init__(self, caps_bytes: Mapping[Line, int]) -> None:
        self._caps = dict(caps_bytes)
        self._held = dict.fromkeys(Line, 0)
        self._peak = dict.fromkeys(Line, 0)

    def allocate(self, line: Line, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a zeroed array of `shape` and `dtype`, counted on `line`.

        Raises BudgetError if the allocation would exceed the cap of the line.
        """
        count = shape if isinstance(shape, int) else math.prod(shape)
        size_bytes = count * np.dtype(dtype).itemsize
        cap = self._caps.get(line)
        if cap is not None and self._held[line] + size_bytes > cap:
            raise BudgetError(
                f"{line}: {size_bytes:,} more bytes on top of {self._held[line]:,} would exceed the cap of {cap:,}"
            )
        array = np.zeros(shape, dtype)
        self._held[line] += size_bytes
        self._peak[line] = max(self._peak[line], self._held[line])
        return array

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Context manager: undo the counts of all allocations in the block if it raises.

        The caller must then drop its references to the arrays.
        """
        held = self._held.copy()
        try:
            yield
        except BaseException:
            self._held = held
            raise

    def release(self, line: Line, *arrays: NDArray[Any]) -> None:
        """Subtract the sizes of `arrays` from `line`. The caller must drop its references to them.

        Raises ValueError if more bytes are released than the line holds.
        """
        self._held[line] -= sum(array.nbytes for array in arrays)
        if self._held[line] < 0:
            raise ValueError(f"{line}: more bytes released than were allocated")

    def held_bytes(self, line: Line) -> int:
        """Return the number of bytes that are allocated on `line` now."""
        return self._held[line]

    def peak_bytes(self, line: Line) -> int:
        """Return the largest number of bytes that `line` ever held."""
        return self._peak[line]

    def cap_bytes(self, line: Line) -> int | None:
        """Return the cap of `line` in bytes, or None if it has no cap."""
        return self._caps.get(line)
