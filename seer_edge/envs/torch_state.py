"""Options of torch that the code of an environment may change: what they are now, and how to restore them."""

import sys
from typing import Any

Options = tuple[Any, ...] | None
"""What `torch_options` returned."""

_guard: Any = None
"""The last guard of `torch.inference_mode`. A guard that is deleted restores the mode before it."""


def torch_options() -> Options:
    """Return the options as they are now, in about 1 us; None if torch is not imported, or not completely.

    A plain tuple takes half the time of a class.
    """
    torch: Any = sys.modules.get("torch")
    device = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if device is None:
        return None
    return (
        # of this thread
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        vars(device).get("device_context"),
        # of the process
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
    )


def restore_torch(before: Options) -> None:
    """Set the options to `before`. None stands for those that torch has when it is imported."""
    now = torch_options()
    if now == before or now is None:
        return
    torch: Any = sys.modules["torch"]
    if before is None:
        before = (True, False, False, False, None, False, torch.float32, "highest", now[-1])
    gradients, inference, autocast, autocast_cuda, device, deterministic, dtype, precision, threads = before
    if now[1] != inference:
        _set_inference(torch, inference)
    torch.set_grad_enabled(gradients)
    torch.set_autocast_enabled("cpu", autocast)
    torch.set_autocast_enabled("cuda", autocast_cuda)
    if now[4] is not device:
        torch.set_default_device(None if device is None else device.device)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(precision)
    if now[-1] != threads:
        torch.set_num_threads(threads)


def _set_inference(torch: Any, mode: bool) -> None:
    global _guard
    _guard = None  # before the next one begins, or its end would undo that
    _guard = torch.inference_mode(mode)
    _guard.__enter__()
