"""The frozen encoder: an ONNX graph run by ONNX Runtime, forward only.

The graph has one input `observations` uint8 `[B, C, h, w]` and one output `latents` float32 `[B, N, L]`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.ledger import Ledger, Line

INPUT, OUTPUT = "observations", "latents"
MAX_BATCH = 16


class OnnxEncoder:
    """Encodes frame stacks, at most `MAX_BATCH` at a time."""

    def __init__(self, graph: bytes, *, threads: int, ledger: Ledger) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without its arena, or with memory patterns, the heap grows by up to 30 MB under the first large batches.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        (model_input,) = self._session.get_inputs()
        (model_output,) = self._session.get_outputs()
        self.observation_shape: tuple[int, ...] = tuple(model_input.shape[1:])
        self.latent_shape: tuple[int, ...] = tuple(model_output.shape[1:])
        self._ledger = ledger
        self._latents = ledger.allocate(Line.WORKSPACE, (MAX_BATCH, *self.latent_shape), np.float32)

    def __call__(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latents `[B, *latent_shape]` of `observations` `[B, C, h, w]`, valid until the next call.

        Raises ValueError for another shape or dtype.
        """
        if observations.dtype != np.uint8 or not observations.flags.c_contiguous:
            raise ValueError(f"expected contiguous uint8 stacks, got {observations.dtype} {list(observations.shape)}")
        if observations.shape[1:] != self.observation_shape or len(observations) > MAX_BATCH:
            raise ValueError(
                f"expected at most {MAX_BATCH} stacks {list(self.observation_shape)}, got {list(observations.shape)}"
            )
        latents = self._latents[: len(observations)]
        binding: Any = self._binding
        binding.bind_input(INPUT, "cpu", 0, np.uint8, observations.shape, observations.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, latents.shape, latents.ctypes.data)
        self._session.run_with_iobinding(binding)
        return latents

    def release(self) -> None:
        """Take the latents' memory off the ledger; the encoder is not used any more."""
        self._ledger.release(Line.WORKSPACE, self._latents)
