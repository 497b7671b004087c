"""Check that the requested compute device exists. Imports torch only for a CUDA device."""

import re

from seer_edge.errors import BadInputError


def check_device(device: str) -> None:
    """Raise BadInputError unless `device` is cpu, cuda or cuda:N and exists on this computer."""
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device, re.ASCII)
    if match is None:
        raise BadInputError(f"--device {device}: not a device; use cpu, cuda or cuda:N")
    if match[1] == "cpu":
        return
    try:
        import torch
    except ImportError as error:
        raise BadInputError(
            f"--device {device}: needs {error.name}; pip install 'seer-edge[train]', or use cpu"
        ) from error
    if not torch.cuda.is_available():
        raise BadInputError(f"--device {device}: torch {torch.__version__} finds no CUDA device; use cpu")
    if int(match[2] or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise BadInputError(f"--device {device}: torch finds {count} CUDA devices; use cuda:0 to cuda:{count - 1}")
