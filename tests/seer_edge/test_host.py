"""The reason of a failed allocation, as one line."""

import pytest
import torch

from seer_edge.machine.host import is_out_of_memory, out_of_memory_line
from seer_edge.networks.script import scripted


@scripted
def _too_much(size: int) -> torch.Tensor:
    return torch.zeros([size, size])


def test_torchscript_does_not_print_its_code() -> None:
    with pytest.raises(RuntimeError) as error:
        _too_much(2**24)
    assert is_out_of_memory(error.value)
    assert "TorchScript" in str(error.value), "it is this kind of error"
    line = out_of_memory_line(error.value)
    assert "allocate" in line
    assert "Traceback" not in line
    assert "_too_much" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "MemoryError"),
        (MemoryError("Unable to allocate\n 3 GiB"), "Unable to allocate 3 GiB"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_other_reasons_stay_as_they_are(error: Exception, line: str) -> None:
    assert is_out_of_memory(error)
    assert out_of_memory_line(error) == line
