"""camerabench measures a camera and rejects one that is missing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CAMERABENCH = Path(__file__).parents[2] / "tools" / "camerabench.py"


def _camerabench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CAMERABENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.integration
def test_a_simulated_camera_is_measured() -> None:
    done = _camerabench("--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "camera Noise" in done.stdout
    [rate] = re.findall(r"images a second +([\d.]+)", done.stdout)
    assert 0 < float(rate) < 31
    assert len(re.findall(r"p50 [\d.]+, p99 [\d.]+", done.stdout)) == 3


def test_a_missing_camera_is_rejected() -> None:
    done = _camerabench("97")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "camerabench.py: camera 97: there is no /dev/video97; check its cable and its number\n"
