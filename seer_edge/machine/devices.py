"""Whether the device that was asked for is here. torch is imported for one that is not the CPU, and only then."""

import re

from seer_edge.errors import BadInputError
from seer_edge.machine.lean_torch import import_torch


def check_device(device: str) -> None:
    """Raise BadInputError for what is no device, and for one that is not there."""
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device, re.ASCII)
    if match is None:
        raise BadInputError(f"--device {device}: not a device; give cpu or cuda")
    if match[1] == "cpu":
        return
    try:
        import_torch()
        import torch
    except ImportError as error:
        raise BadInputError(
            f"--device {device}: needs {error.name}; pip install 'seer-edge[train]', or give cpu"
        ) from error
    if not torch.cuda.is_available():
        raise BadInputError(f"--device {device}: torch {torch.__version__} finds no CUDA device; give cpu")
    if int(match[2] or 0) >= torch.cuda.device_count():
        raise BadInputError(f"--device {device}: there are {torch.cuda.device_count()}; give a smaller index")
