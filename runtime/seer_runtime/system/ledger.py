"""The byte ledger: every array of the data plane is allocated here, on a named line, under that line's cap."""

import enum
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

WORKSPACE_CAP_BYTES = 8_000_000


class BudgetError(Exception):
    """An allocation would take a ledger line above its cap."""


class Line(enum.StrEnum):
    """What bytes are for. `OBSERVATIONS` is the arena, the only place where replayed observations live."""

    OBSERVATIONS = "observations"
    WORKSPACE = "workspace"
    COLUMNS = "columns"
    PRIORITIES = "priorities"


class Ledger:
    """Counts what is allocated on each line, now and at its peak, and refuses what would exceed a cap.

    Memory is zeroed by the system on first touch, so a large line costs RSS only as it fills.
    """

    def __init__(self, caps_bytes: Mapping[Line, int]) -> None:
        self._caps = dict(caps_bytes)
        self._held = dict.fromkeys(Line, 0)
        self._peak = dict.fromkeys(Line, 0)

    def allocate(self, line: Line, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A zeroed array, counted on `line`. Raises BudgetError where the line's cap would be exceeded."""
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
        """Allocations inside count only where all of them succeed; the caller drops its references."""
        held = self._held.copy()
        try:
            yield
        except BaseException:
            self._held = held
            raise

    def release(self, line: Line, *arrays: NDArray[Any]) -> None:
        """Take `arrays` off `line`; the caller drops its references."""
        self._held[line] -= sum(array.nbytes for array in arrays)
        if self._held[line] < 0:
            raise ValueError(f"{line}: more bytes released than were allocated")

    def held_bytes(self, line: Line) -> int:
        """Bytes allocated on `line` now."""
        return self._held[line]

    def peak_bytes(self, line: Line) -> int:
        """The most bytes `line` ever held."""
        return self._peak[line]

    def cap_bytes(self, line: Line) -> int | None:
        """The cap of `line`, or None where it is only counted."""
        return self._caps.get(line)
