"""cuda_check, on the CPU: it compares both devices, finds differences, and refuses a missing GPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import cuda_check  # noqa: E402


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in {"STEPS": 150, "STARTS": 60, "FREEZE": 100, "MORE": 5}.items():
        monkeypatch.setattr(cuda_check, name, steps)


def _main(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["cuda_check.py", "--device", "cpu"])
    return cuda_check.main()


@pytest.mark.integration
@pytest.mark.usefixtures("short")
def test_the_cpu_agrees_with_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(monkeypatch) == 0
    printed = capsys.readouterr().out
    for line in ("step 99: encoder", "step 99: head", "step 99: update", "step 150: head", "step 150: update"):
        (found,) = [row for row in printed.splitlines() if row.strip().startswith(line)]
        assert float(found.split()[-2]) == 0.0
    assert "resumed with --device cpu" in printed


@pytest.mark.integration
@pytest.mark.usefixtures("short")
def test_a_device_that_computes_something_else_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session, count = cuda_check._session, iter(range(4))

    def other_head(*given: Any) -> Any:
        found = session(*given)
        if next(count) % 2:
            with torch.no_grad():
                found.agent.head.hidden.bias += 0.01
        return found

    monkeypatch.setattr(cuda_check, "_session", other_head)
    assert _main(monkeypatch) == 1
    assert "differs by more than is accepted: head at step 99" in capsys.readouterr().err


def test_differences_are_relative_to_the_largest_output() -> None:
    assert cuda_check._relative(np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25


def test_a_missing_gpu_is_refused() -> None:
    command = [sys.executable, str(TOOLS / "cuda_check.py"), "--device", "cuda:7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cuda_check.py: --device cuda:7: ")
