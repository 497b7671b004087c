"""noisebench simulates cameras as documented, and measures them with each number of gray levels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import noisebench  # noqa: E402


def _noisebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "noisebench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_prints_a_line_for_each_camera() -> None:
    done = _noisebench("--env", "Alien", "--blocks", "4")
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert title.startswith("Alien, 32 frames of a random policy, 7,056 B each; bytes of a frame in blocks of 8")
    assert header.split() == ["camera", "256", "64", "32", "16"]
    table = {line[:23].strip(): [float(cell.replace(",", "")) for cell in line.split()[-4:]] for line in lines}
    assert len(table) == 10
    for sizes in table.values():
        assert sizes == sorted(sizes, reverse=True)
    columns = [table["no noise"], *(table[f"sensor noise {strength}"] for strength in (1, 2, 4))]
    assert columns == sorted(columns)
    assert max(map(max, table.values())) <= 7_056


def test_an_unknown_environment_is_refused() -> None:
    done = _noisebench("--env", "NoSuchGame")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--env NoSuchGame: " in line


@pytest.mark.parametrize("strength", [1, 2, 4])
@pytest.mark.parametrize("level", [64, 128, 192])
def test_sensor_noise_has_the_variance_of_read_and_shot_noise(strength: int, level: int) -> None:
    frames = np.full((20, 84, 84), level, np.uint8)
    seen = noisebench.sensed(frames, strength, np.random.default_rng(0))
    assert seen.dtype == np.uint8
    assert abs(seen.mean() - level) < 0.1
    rounding = 1 / 12
    assert seen.var() == pytest.approx(strength**2 * (1 + level / 128) + rounding, rel=0.03)


def test_a_worse_jpeg_quality_changes_frames_more() -> None:
    rng = np.random.default_rng(1)
    frames = np.cumsum(rng.integers(-6, 7, (4, 84, 84)), axis=2).clip(-128, 127).astype(np.int64) + 128
    errors = [
        np.abs(noisebench.through_jpeg(frames.astype(np.uint8), quality) - frames).mean() for quality in (90, 70, 50)
    ]
    assert 0 < errors[0] < errors[1] < errors[2] < 20
