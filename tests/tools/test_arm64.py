"""The emulated board: its report on a host that cannot emulate, CI's reaction, and its comparison of recordings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROJECT = Path(__file__).parents[2]
TOOLS = PROJECT / "tools"
sys.path.insert(0, str(TOOLS))

import arm64_play  # noqa: E402


def test_a_host_that_cannot_emulate_prints_the_reason_and_exits_77(tmp_path: Path) -> None:
    command = [sys.executable, TOOLS / "arm64.py", "--work", tmp_path / "work"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 77
    assert done.stdout == "arm64.py: cannot emulate 64-bit ARM here: the host has no apt-get; install it\n"
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("tests", "pythons", "emulated", "optional", "status"),
    [
        (0, 0, 0, "", 0),
        (0, 0, 1, "", 1),
        (0, 0, 77, "", 77),
        (0, 0, 77, "optional", 0),
        (0, 0, 1, "optional", 1),
        (0, 0, 77, "yes", 77),
        (1, 0, 0, "", 2),  # make's exit status
        (0, 1, 0, "", 2),
    ],
)
def test_ci_requires_the_emulation_unless_arm64_is_optional(
    tmp_path: Path, tests: int, pythons: int, emulated: int, optional: str, status: int
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci/run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(f"test:\n\t@exit {tests}\ntest-pythons:\n\t@exit {pythons}\n")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$*" = tools/arm64.py ] && exit {emulated}\nexit 99\n')
    python.chmod(0o755)
    done = subprocess.run(["bash", tmp_path / ".ci/run"], env={**os.environ, "ARM64": optional}, capture_output=True)
    assert done.returncode == status


def _written(path: Path, **changes: Any) -> Path:
    values = np.array([[1.0, 0.5], [1.0, 1.0 - 5e-5], [0.2, 0.7]], np.float32)
    frames = np.full((3, 4, 4), 100, np.uint8)
    np.savez(path, **{"frames": frames, "actions": values.argmax(axis=1), "values": values, **changes})
    return path


@pytest.mark.parametrize(
    ("changes", "same", "words"),
    [
        ({}, True, "3 frames, 3 equal, largest difference 0 of 255; 3 actions equal, 1 near-ties"),
        ({"actions": np.array([0, 1, 1])}, True, "2 actions equal"),  # the near-tie
        ({"actions": np.array([1, 0, 1])}, False, "2 actions equal"),
        ({"frames": np.full((3, 4, 4), 101, np.uint8)}, True, "0 equal, largest difference 1 of 255"),
        ({"frames": np.full((3, 4, 4), 98, np.uint8)}, False, "0 equal, largest difference 2 of 255"),
    ],
)
def test_compare_allows_rounding_differences_and_near_ties(
    tmp_path: Path, changes: dict[str, Any], same: bool, words: str
) -> None:
    here, there = _written(tmp_path / "here.npz"), _written(tmp_path / "there.npz", **changes)
    line, found = arm64_play.compare(here, there)
    assert found == same
    assert words in line
