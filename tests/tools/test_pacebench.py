"""pacebench trains in three ways for the same time, plays the policies in real time, and prints their returns."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def _pacebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "pacebench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("pacebench", TOOLS / "pacebench.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_paused_pole_falls_only_in_its_steps(module: ModuleType) -> None:
    env = module.PausedPole(hz=200)
    first, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env._device.picture(), first)
    frames = [env.step(2)[0] for _ in range(20)]
    assert not np.array_equal(frames[-1], first)
    np.testing.assert_array_equal(env._device.picture(), frames[-1])
    assert env._device._at == pytest.approx(20 / 200)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--time", "soon"], "--time: 'soon' is not a duration; use for example 30s, 10min or 1.5h"),
        (["--seeds", "0"], "--seeds: '0' is not a whole number from 1 to 4294967295"),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], line: str) -> None:
    done = _pacebench(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"pacebench.py: {line}\n")


@pytest.mark.slow
def test_all_ways_train_for_the_same_time(tmp_path: Path) -> None:
    done = _pacebench("--time", "40s", "--seeds", "1", "--episodes", "1", "--update-time", "0.2s")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [line[0] for line in lines] == ["real", "lockstep", "paused"]
    steps = [int(line[-4].replace(",", "")) for line in lines]  # updates and both returns follow
    assert steps[0] > 1.5 * max(steps[1:])  # only in real time do steps not wait for the updates
