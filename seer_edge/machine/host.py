"""What a command asks of its host: compute threads and a device."""

import logging

import torch

from seer_edge.config.config import TrainConfig
from seer_edge.machine.devices import check_device
from seer_runtime.onnx.encoder import has_cuda
from seer_runtime.system.process import bound_heap

LOG = logging.getLogger(__name__)


def prepare_compute(config: TrainConfig) -> None:
    """Bound this process's threads and heaps and check the device. Raises BadInputError for a device that is not there.

    Numbers below the least normal float become zero, in this thread and those that it starts from now on. Where a
    latent or a unit stays at zero, Adam's first moment otherwise falls to the least subnormal number and stays there
    for ever: 17 % of Rainbow's 400 updates after a freeze at step 2,000, 37 % after 2,800. Adam's step takes 1.7 times
    as long where all of them are subnormal.
    """
    import cv2

    bound_heap()
    torch.set_flush_denormal(True)
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(config.threads)
    check_device(config.device)
    if torch.device(config.device).type == "cuda":
        prepare_cuda()


def prepare_cuda() -> None:
    """Let torch and ONNX Runtime agree on what a convolution gives, and say where the latter has no CUDA."""
    torch.backends.cudnn.allow_tf32 = False  # off by more than the freeze allows between the two
    if not has_cuda():
        LOG.warning("this ONNX Runtime has no CUDA: the frozen encoder runs on the CPU; onnxruntime-gpu has it")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: a MemoryError, or what torch, ONNX Runtime and threads raise in its place."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("alloc" in text or "start new thread" in text)
    )
