"""framebench prints the cost of both ways of making frames, on the same screens."""

import subprocess
import sys
from pathlib import Path

import pytest

FRAMEBENCH = Path(__file__).parents[2] / "tools" / "framebench.py"


def _framebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FRAMEBENCH), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_it_prints_a_line_a_way() -> None:
    done = _framebench("--env", "CrazyClimber", "--steps", "64")
    assert done.returncode == 0, done.stderr
    title, header, area, bilinear = done.stdout.splitlines()
    assert title.startswith("CrazyClimber, 64 steps; the frames differ by ")
    assert 0.5 < float(title.split()[-3]) < 5
    assert header.split()[0] == "frames"
    assert (area.split()[0], bilinear.split()[0]) == ("area", "bilinear")
    assert all(float(cell.replace(",", "")) > 0 for line in (area, bilinear) for cell in line.split()[1:])


@pytest.mark.parametrize("env", ["cartpole-swingup", "NoSuchGame"])
def test_an_environment_other_than_an_atari_game_is_refused(env: str) -> None:
    done = _framebench("--env", env)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"--env {env}: " in line
