"""Options of torch that the code of an environment may change: what they are now, and how to restore them."""

import sys
from typing import Any, NamedTuple

_guard: Any = None
"""The last guard of `torch.inference_mode`. A guard that is deleted restores the mode before it."""


class TorchState(NamedTuple):
    """Options of this thread (the first five) and of the process."""

    gradients: bool = True
    inference: bool = False
    autocast: bool = False
    autocast_cuda: bool = False
    device: Any = None
    deterministic: bool = False
    dtype: Any = None
    precision: str = "highest"
    threads: int | None = None

    @classmethod
    def current(cls) -> "TorchState":
        """Return the options as they are now, in 1 us; those of torch at its import if it was not imported yet."""
        torch: Any = sys.modules.get("torch")
        if not hasattr(torch, "_GLOBAL_DEVICE_CONTEXT"):  # not imported, or not completely
            return cls()
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.get_num_threads(),
        )

    def restore(self) -> None:
        """Set the options that differ."""
        now, torch = TorchState.current(), sys.modules.get("torch")
        if now == self or torch is None:
            return
        if now.inference != self.inference:
            _set_inference(torch, self.inference)
        torch.set_grad_enabled(self.gradients)
        torch.set_autocast_enabled("cpu", self.autocast)
        torch.set_autocast_enabled("cuda", self.autocast_cuda)
        if now.device is not self.device:
            torch.set_default_device(None if self.device is None else self.device.device)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.set_default_dtype(self.dtype or torch.float32)
        torch.set_float32_matmul_precision(self.precision)
        if self.threads is not None and now.threads != self.threads:
            torch.set_num_threads(self.threads)


def _set_inference(torch: Any, mode: bool) -> None:
    global _guard
    _guard = None  # before the next one begins, or its end would undo that
    _guard = torch.inference_mode(mode)
    _guard.__enter__()
