"""speedbench times both phases of a real session, and bad input is answered."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SPEEDBENCH = Path(__file__).parents[2] / "tools" / "speedbench.py"


def _speedbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SPEEDBENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_both_phases_are_timed() -> None:
    done = _speedbench("--env", "Alien", "--resolution", "42")
    assert done.returncode == 0, done.stderr
    head, _, *lines = done.stdout.splitlines()
    assert head.startswith("ALE/Alien-v5, 18 actions, rainbow, data-efficient, 4x42x42, batch 32, 1 thread; ")
    assert all(float(rate) > 1 for rate in re.findall(r"(\d+)(?: GFLOP/s|(?= after))", head))
    times = {
        name: [float(word) for word in line.split()[-4:]] for name, line in zip(("pixel", "latent"), lines, strict=True)
    }
    for least, median, mean, most in times.values():
        assert 0 < least <= median <= most
        assert least <= mean <= most


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--env", "Aliem"), "--env Aliem: "),
        (("--env", "cartpole-swingup", "--resolution", "51"), "--resolution 51: "),
        (("--threads", "0"), "--threads"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = _speedbench(*arguments)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
