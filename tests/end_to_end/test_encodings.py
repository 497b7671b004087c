"""Commands work if the output cannot show a character, and with paths that are not UTF-8."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_devices import DEVICES, SETS, SHORT

PROJECT = Path(__file__).parents[2]


EACH_IN_TURN = """
import sys
from itertools import groupby
from seer_edge.cli import main
for between, words in groupby(sys.argv[1:], lambda word: word == "+"):
    if not between:
        sys.argv = ["seer-edge", *words]
        print("\\f", main())
"""


def _run(*commands: tuple[str | bytes, ...], **variables: str) -> tuple[list[tuple[bytes, int]], bytes]:
    """Run the commands in a new process; return the output and the status of each, and stderr."""
    words = [word for command in commands for word in ("+", *command)]
    line, environment = [sys.executable, "-c", EACH_IN_TURN, *words], {**os.environ, **variables}
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    parts = re.findall(rb"(.*?)\f (\d+)\n", done.stdout, re.DOTALL)
    assert len(parts) == len(commands)
    return [(printed, int(status)) for printed, status in parts], done.stderr


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}])
def test_commands_work_in_a_folder_that_is_not_utf_8(variables: dict[str, str], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9-\xe2\x82\xac"
    os.mkdir(odd)  # noqa: PTH102 (a path of bytes)
    run, bundle, log = odd + b"/run", odd + b"/policy.seer", odd + b"/log"
    flags = ("--env", f"{DEVICES}:Device-v0", *SHORT, *SETS)
    size = SHORT[SHORT.index("--mem-budget") :]
    imported = ("--env", f"{DEVICES}:Device-v0", "--total-timesteps", "50", *size, *SETS, "--from", bundle)
    commands = (
        ("train", *flags, "--run-dir", run, "--log-file", log),
        ("eval", run),
        ("resume", run),
        ("export", run, "-o", bundle),
        ("act", bundle, "--episodes", "1"),
        ("act", run),
        ("fork", run, "-o", odd + b"/fork"),
        ("train", *imported, "--run-dir", odd + b"/imported"),
    )
    done, errors = _run(*commands, **variables)
    assert [status for _, status in done] == [0, 0, 0, 0, 0, 2, 0, 0]
    assert b"Traceback" not in errors
    trained, evaluated, resumed, exported, acted, *_ = (printed for printed, _ in done)
    assert b"run folder: " in trained
    assert b"caf\\udce9-" in Path(os.fsdecode(log)).read_bytes()
    assert all(b"caf\\udce9-" in printed for printed in (trained, resumed, exported))
    assert b"return 25.0 \\xb1 0.0" in evaluated
    assert b"25.0" in acted
