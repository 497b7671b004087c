"""The frozen encoder: an ONNX graph that ONNX Runtime executes, forward only.

The graph has one input, `observations` uint8 `[B, C, h, w]`, and one output, `latents` float32 `[B, N, L]`: one latent
of size L for each of N networks.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable.files import one_line
from seer_runtime.onnx.check import INPUT, OUTPUT, GraphError, GraphShapes, check_graph
from seer_runtime.onnx.load import onnx_runtime
from seer_runtime.system.ledger import Ledger, Line

__all__ = ["INPUT", "MAX_BATCH", "OUTPUT", "GraphError", "OnnxEncoder", "open_session"]

MAX_BATCH = 16
CPU = "cpu"
_CPU_PROVIDER, _CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxEncoder:
    """A frozen encoder for up to `MAX_BATCH` frame stacks per call.

    `graph` is untrusted: `check` verifies its bytes before ONNX Runtime opens exactly these bytes. `check` is
    `check_graph` by default, or `check_int8` for an int8 encoder. `device` is cpu, cuda or cuda:N. The CPU is used if
    CUDA is not available in ONNX Runtime or fails to start.

    Raises GraphError for an invalid graph, and BudgetError if the ledger has no room for the latents.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        threads: int,
        ledger: Ledger,
        check: Callable[..., GraphShapes] | None = None,
        device: str = CPU,
    ) -> None:
        shapes = (check or check_graph)(graph, max_batch=MAX_BATCH)
        self.observation_shape: tuple[int, ...] = shapes.observation_shape
        self.latent_shape: tuple[int, ...] = shapes.latent_shape

        self._ledger = ledger
        self._latents = ledger.allocate(Line.WORKSPACE, (MAX_BATCH, *self.latent_shape), np.float32)
        try:
            self._session = open_session(graph, threads, device)
        except GraphError:
            ledger.release(Line.WORKSPACE, self._latents)
            raise
        self._binding: Any = self._session.io_binding()

    def __call__(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the latents of `observations`: uint8 `[B, C, h, w]` to float32 `[B, N, L]`, valid until the next call.

        Raises ValueError for another shape or dtype, and for more than `MAX_BATCH` observations.
        """
        if observations.dtype != np.uint8 or not observations.flags.c_contiguous:
            raise ValueError(f"expected contiguous uint8 stacks, got {observations.dtype} {list(observations.shape)}")
        if observations.shape[1:] != self.observation_shape or len(observations) > MAX_BATCH:
            raise ValueError(
                f"expected at most {MAX_BATCH} stacks {list(self.observation_shape)}, got {list(observations.shape)}"
            )
        latents = self._latents[: len(observations)]
        binding = self._binding
        binding.bind_input(INPUT, "cpu", 0, np.uint8, observations.shape, observations.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, latents.shape, latents.ctypes.data)
        self._session.run_with_iobinding(binding)
        return latents

    def release(self) -> None:
        """Release the memory of the latents from the ledger. The encoder must not be used afterwards."""
        self._ledger.release(Line.WORKSPACE, self._latents)


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime supports CUDA. Imports onnxruntime."""
    return _CUDA_PROVIDER in onnx_runtime().get_available_providers()


def providers(device: str, available: Collection[str]) -> list[Any]:
    """Return the execution providers in order of preference: CUDA device N for `cuda:N`, then the CPU.

    `available` are the names of the providers in this build of ONNX Runtime.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or _CUDA_PROVIDER not in available:
        return [_CPU_PROVIDER]
    # With TF32, latents differ from torch's by more than the freeze allows.
    return [(_CUDA_PROVIDER, {"device_id": int(index or 0), "use_tf32": 0}), _CPU_PROVIDER]


def open_session(graph: bytes, threads: int, device: str = CPU) -> Any:
    """Open an ONNX Runtime session for the checked bytes `graph`. Raises GraphError if ONNX Runtime rejects them."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # By default, ONNX Runtime re-enables subnormal numbers in the calling thread, in which torch had disabled them.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Otherwise ONNX Runtime may detect its own ORT format in the bytes and load another model than the checked one.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # With memory patterns, or without its arena, the heap grows by up to 30 MB during the first large batches.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    chosen = providers(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(graph, options, providers=chosen)
    except Exception as error:  # the exception types of ONNX Runtime are not public
        raise GraphError(f"ONNX Runtime cannot open it: {one_line(error)}") from error
