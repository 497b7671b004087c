"""blockbench compares compressors on real rows and rejects bad input."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.processes import forked_tool

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import blockbench  # noqa: E402


def test_every_combination_is_measured_and_restores_its_rows() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.integers(0, 256, (1, 400), np.uint8), 64, axis=0)
    rows[:, :8] = rng.integers(0, 256, (64, 8), np.uint8)
    lines = blockbench.measure(rows, blocks=3)
    assert len(lines) == len(blockbench.LENGTHS) * len(blockbench.compressors()) * 2
    sizes = {line[:3]: float(line[3]) for line in lines}
    for name in blockbench.compressors():
        # The first row of a block is noise; each further one differs in 8 bytes.
        assert 400 / 32 + 8 * 31 / 32 <= sizes["32", name, "xor"] < sizes["4", name, "xor"] < 400


def test_undo_xor_restores_the_rows() -> None:
    rows = np.random.default_rng(1).integers(0, 256, (9, 50), np.uint8)
    difference = blockbench.xor(rows)
    assert not np.array_equal(difference, rows)
    blockbench.undo_xor(difference)
    np.testing.assert_array_equal(difference, rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-here"], ["nothing-here: there is no such", "give the --run-dir of a run with --store paper"]),
        ([str(TOOLS)], [f"{TOOLS}: not a run's folder; give the --run-dir of a run with --store paper"]),
        (["nothing-here", "--env", "Alien"], ["--env: not allowed with argument RUN"]),
        (["--env", "Alein"], ["Alein"]),
        (["--blocks", "0"], ["--blocks", "'0'"]),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], words: list[str]) -> None:
    result = forked_tool(TOOLS / "blockbench.py", *arguments)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert all(word in result.stderr for word in words), result.stderr
