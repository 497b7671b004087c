"""framebench prints the cost of both ways of making frames, on the same screens."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEBENCH = Path(__file__).parents[2] / "tools" / "framebench.py"
sys.path.insert(0, str(FRAMEBENCH.parent))

import framebench  # noqa: E402


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


def test_a_missing_package_is_reported_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "lz4" else find_spec(name))
    monkeypatch.setattr("sys.argv", ["framebench.py", "--steps", "64"])
    assert framebench.main() == 2
    line = "framebench.py: the package lz4 is missing; pip install 'seer-edge[bench]'\n"
    assert capsys.readouterr() == ("", line)


def test_fewer_steps_than_a_block_of_frames_are_refused() -> None:
    done = _framebench("--steps", "15")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "framebench.py: --steps: '15' is not a whole number from 16 to 4294967295\n"
