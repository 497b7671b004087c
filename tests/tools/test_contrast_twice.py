"""contrast_twice moves the encoder as the two optimizers of the released code do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from contrast_twice import step_twice

from seer_edge.agents.adam import Adam

TOOLS = Path(__file__).parents[2] / "tools"
RATE = 1e-2


def _parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    names = "encoder.convs.0.weight", "critic.norm.weight", "bilinear.weight"
    return {name: nn.Parameter(torch.randn(3, 5, generator=generator)) for name in names}


def test_steps_equal_those_of_two_adam_optimizers_on_the_encoder_and_one_on_w() -> None:
    ours, theirs = _parameters(), _parameters()
    optimizer = Adam(ours, learning_rate=RATE)
    step_twice(optimizer)
    of_encoder = torch.optim.Adam([p for name, p in theirs.items() if name != "bilinear.weight"], RATE)
    of_all = torch.optim.Adam(theirs.values(), RATE)
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        for name, gradient in {name: torch.randn(3, 5, generator=generator) for name in ours}.items():
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        optimizer.step()
        of_encoder.step()
        of_all.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tool", ["contrast_twice.py", "fresh_rows.py"])
def test_a_folder_without_a_run_is_refused_in_one_line(tool: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / tool), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tool}: {tmp_path}: is not the folder of a run; name one\n"
