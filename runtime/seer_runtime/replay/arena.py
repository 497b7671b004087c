"""The arena: one allocation for all observations of the replay, before and after the freeze."""

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.ledger import Ledger, Line


class Arena:
    """`size_bytes` of memory, allocated once and never moved. Rows are views into it.

    Raises BudgetError if `size_bytes` exceeds the cap of the observations in the ledger.
    """

    def __init__(self, size_bytes: int, ledger: Ledger) -> None:
        self.bytes: NDArray[np.uint8] = ledger.allocate(Line.OBSERVATIONS, size_bytes, np.uint8)

    @property
    def size_bytes(self) -> int:
        """The size of the allocation in bytes."""
        return self.bytes.nbytes

    def rows(self, row_bytes: int) -> NDArray[np.uint8]:
        """Return the arena as rows, uint8 `[size_bytes // row_bytes, row_bytes]`, without a copy."""
        count = self.size_bytes // row_bytes
        return self.bytes[: count * row_bytes].reshape(count, row_bytes)
