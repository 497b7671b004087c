"""planbench compares the plan of a short run with the peak of its process, and rejects bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

PLANBENCH = Path(__file__).parents[2] / "tools" / "planbench.py"


def _planbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PLANBENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_a_run_with_large_inputs_takes_what_its_plan_says() -> None:
    """With RGB frames and batches of 96, observations are most of an update's memory."""
    done = _planbench("rgb-96")
    assert done.returncode == 0, done.stderr
    _, line = done.stdout.splitlines()
    name, planned, peak, ratio = line.split()
    assert name == "rgb-96"
    assert float(ratio) == pytest.approx(float(peak) / float(planned), abs=0.006)  # all three are rounded
    assert 0.85 <= float(ratio) <= 1.05


def test_an_unknown_case_is_rejected() -> None:
    done = _planbench("sepia")
    assert done.returncode == 2
    assert done.stderr.startswith("planbench.py: CASE: sepia: unknown; choose from gray, ")
    assert done.stdout == ""
