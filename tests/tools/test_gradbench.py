"""gradbench compares two versions of an update, and refuses to time none."""

import subprocess
import sys
from pathlib import Path

import pytest

GRADBENCH = Path(__file__).parents[2] / "tools" / "gradbench.py"


def _gradbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(GRADBENCH), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.integration
def test_both_versions_are_timed_alone_and_beside_the_emulator() -> None:
    done = _gradbench("--updates", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    begins = ("by hand   alone", "by hand   beside the emulator", "autograd  alone", "autograd  beside the emulator")
    for line, begin in zip(done.stdout.splitlines(), begins, strict=True):
        assert line.startswith(begin)
        median, fast = (float(part.split()[-2]) for part in line.split(","))
        assert median >= fast > 0


@pytest.mark.parametrize("flag", ["--updates", "--rounds"])
def test_no_updates_are_refused(flag: str) -> None:
    done = _gradbench(flag, "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gradbench.py: {flag}: '0' is not a whole number from 1 to 4294967295\n"
