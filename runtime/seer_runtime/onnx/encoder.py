"""The frozen encoder: an ONNX graph run by ONNX Runtime, forward only.

The graph has one input `observations` uint8 `[B, C, h, w]` and one output `latents` float32 `[B, N, L]`.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable.files import one_line
from seer_runtime.onnx.check import INPUT, OUTPUT, GraphError, GraphShapes, check_graph
from seer_runtime.system.ledger import Ledger, Line

__all__ = ["INPUT", "MAX_BATCH", "OUTPUT", "GraphError", "OnnxEncoder", "open_session"]

MAX_BATCH = 16
CPU = "cpu"
_CPU_PROVIDER, _CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxEncoder:
    """Encodes frame stacks, at most `MAX_BATCH` at a time.

    `graph` may come from anybody: it is checked first, and the bytes that were checked are the ones that run. Raises
    GraphError for one that is not an encoder of ours, and BudgetError. `check` is that of its kind, `check_graph`
    without one. `device` is cpu, cuda or cuda:N; where ONNX Runtime has no CUDA, or cannot begin it, that is the CPU.
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
        binding = self._binding
        binding.bind_input(INPUT, "cpu", 0, np.uint8, observations.shape, observations.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, latents.shape, latents.ctypes.data)
        self._session.run_with_iobinding(binding)
        return latents

    def release(self) -> None:
        """Take the latents' memory off the ledger; the encoder is not used any more."""
        self._ledger.release(Line.WORKSPACE, self._latents)


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime can run on CUDA devices; it is imported."""
    import onnxruntime

    return _CUDA_PROVIDER in onnxruntime.get_available_providers()


def providers(device: str, available: Collection[str]) -> list[Any]:
    """What ONNX Runtime is to run a graph on, the first that can: CUDA device N for `cuda:N`, then the CPU."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or _CUDA_PROVIDER not in available:
        return [_CPU_PROVIDER]
    # TF32 would be off by more than the freeze allows between ONNX Runtime and torch.
    return [(_CUDA_PROVIDER, {"device_id": int(index or 0), "use_tf32": 0}), _CPU_PROVIDER]


def open_session(graph: bytes, threads: int, device: str = CPU) -> Any:
    """A session of the graph in these bytes, which were checked. Raises GraphError where it cannot be opened."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The default switches subnormal numbers on in the thread that opens the session, where torch had them flushed.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Otherwise the runtime looks in the bytes for the mark of its own format, and that would be another file than
    # the one that was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Without its arena, or with memory patterns, the heap grows by up to 30 MB under the first large batches.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    chosen = providers(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(graph, options, providers=chosen)
    except Exception as error:  # ONNX Runtime's own types, none of them public
        raise GraphError(f"ONNX Runtime cannot open it: {one_line(error)}") from error
