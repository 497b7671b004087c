"""An output that cannot show a character, and a path that is not UTF-8, end no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_devices import DEVICES, SETS, SHORT

PROJECT = Path(__file__).parents[2]


def _run(*words: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "seer_edge", *words]
    return subprocess.run(command, cwd=PROJECT, env={**os.environ, **variables}, capture_output=True, timeout=300)


def _done(*words: str | bytes, **variables: str) -> bytes:
    done = _run(*words, **variables)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}])
def test_commands_work_in_a_folder_that_is_not_utf_8(variables: dict[str, str], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9-\xe2\x82\xac"
    os.mkdir(odd)  # noqa: PTH102 (a path of bytes)
    run, bundle, log = odd + b"/run", odd + b"/policy.seer", odd + b"/log"
    flags = ("--env", f"{DEVICES}:Device-v0", *SHORT, *SETS)
    printed = _done("train", *flags, "--run-dir", run, "--log-file", log, **variables)
    assert b"run folder: " in printed
    assert b"caf\\udce9-" in printed
    assert b"caf\\udce9-" in Path(os.fsdecode(log)).read_bytes()
    printed = _done("eval", run, **variables)
    assert b"return 25.0 \\xb1 0.0" in printed
    assert b"caf\\udce9-" in _done("resume", run, **variables)
    assert b"caf\\udce9-" in _done("export", run, "-o", bundle, **variables)
    assert b"25.0" in _done("act", bundle, "--episodes", "1", **variables)
    refused = _run("act", run, **variables)
    assert (refused.returncode, b"Traceback" in refused.stderr) == (2, False)
