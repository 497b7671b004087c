"""The arena: one allocation that holds every replayed observation, before the freeze and after it."""

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.ledger import Ledger, Line


class Arena:
    """`size_bytes` of memory, taken once and never moved; rows are views into it."""

    def __init__(self, size_bytes: int, ledger: Ledger) -> None:
        self.bytes: NDArray[np.uint8] = ledger.allocate(Line.OBSERVATIONS, size_bytes, np.uint8)

    @property
    def size_bytes(self) -> int:
        """Bytes of the one allocation."""
        return self.bytes.nbytes

    def rows(self, row_bytes: int) -> NDArray[np.uint8]:
        """The arena as rows, without a copy: `[size // row_bytes, row_bytes]`."""
        count = self.size_bytes // row_bytes
        return self.bytes[: count * row_bytes].reshape(count, row_bytes)
