"""The head that selects actions: an ONNX graph that ONNX Runtime executes, forward only.

The graph has one input, `latents` float32 `[B, N, L]`, and one output, `values` float32 `[B, M]`. The values are the
Q-values of M discrete actions, or a continuous action of M components.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.check import OUTPUT, VALUES, check_head
from seer_runtime.onnx.encoder import open_session
from seer_runtime.system.ledger import Ledger, Line


class OnnxHead:
    """A head for one observation per call.

    `graph` is untrusted and is checked first. Raises GraphError for an invalid graph, and BudgetError if the ledger has
    no room for the values.
    """

    def __init__(self, graph: bytes, *, threads: int, ledger: Ledger) -> None:
        shapes = check_head(graph, max_batch=1)
        self.latent_shape, self.outputs = shapes.latent_shape, shapes.outputs
        session = open_session(graph, threads)
        self._values = ledger.allocate(Line.WORKSPACE, (1, self.outputs), np.float32)
        self._binding: Any = session.io_binding()
        self._binding.bind_output(VALUES, "cpu", 0, np.float32, self._values.shape, self._values.ctypes.data)
        self._session = session

    def __call__(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values of one observation: float32 `[N, L]` to float32 `[M]`, valid until the next call.

        Raises ValueError for another shape or dtype, and for an array that is not C-contiguous.
        """
        if latents.shape != self.latent_shape or latents.dtype != np.float32 or not latents.flags.c_contiguous:
            raise ValueError(
                f"expected contiguous float32 latents {list(self.latent_shape)}, "
                f"got {latents.dtype} {list(latents.shape)}"
            )
        self._binding.bind_input(OUTPUT, "cpu", 0, np.float32, (1, *self.latent_shape), latents.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        values: NDArray[np.float32] = self._values[0]
        return values
