"""flatbench times the rows that it names, and refuses input that it cannot measure."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import flatbench  # noqa: E402


def _flatbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "flatbench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_prints_a_column_for_each_number_of_rows() -> None:
    flags = ("--steps", "40", "--rows", "200", "60", "--batches", "2", "--converted", "50")
    done = _flatbench("--env", "Alien", *flags)
    assert done.returncode == 0, done.stderr
    title, what, header, *lines = done.stdout.splitlines()
    assert title == "ALE/Alien-v5, 40 steps of a random policy"
    assert what.startswith("ms to decode a batch: 32 windows of 20 steps")
    assert header.split() == ["compact", "B/row", "60", "200", "spread"]
    assert [line.split()[0] for line in lines[:3]] == ["frames", "uint8", "uint4"]
    for line in lines[:3]:
        assert all(float(cell) > 0 for cell in line.split()[2:4])
    assert [line.split(":")[0] for line in lines[3:]] == ["conversion to uint8", "conversion to uint4"]


def test_a_storage_holds_all_rows_that_it_was_filled_with() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 8), np.uint8)
    from seer_runtime.replay.codecs import frame_codec

    storage = flatbench.filled(frame_codec((6, 8)), noise, 203, 4)
    assert (storage.oldest_block, storage.open_block) == (0, 25)
    out = np.empty((203, 1, 6, 8), np.uint8)
    storage.gather(np.arange(203)[:, None], storage.codec.plain(203), out)
    np.testing.assert_array_equal(out[:, 0], noise[np.arange(203) % 5])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--rows", "24"), "--rows 24: too few for a window; use at least 25"),
        (("--policy", "nothing.seer", "--env", "Alien"), "--env: not allowed with argument --policy"),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = _flatbench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"flatbench.py: {line}\n"
