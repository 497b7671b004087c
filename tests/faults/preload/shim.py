"""Builds `fail_calls.c`, the shim beneath a process that fails its system calls, and says how to run under it."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fail_calls.c")


def build(folder: Path) -> Path:
    """The compiled shim in `folder`. Raises AssertionError where there is no C compiler, or the source is wrong."""
    compiler = shutil.which("cc")
    assert compiler is not None, "cc is missing: the faults beneath a process need Debian's package gcc"
    library = folder / "fail_calls.so"
    command = [
        compiler,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return library


def environment(library: Path, **variables: str | int | Path) -> dict[str, str]:
    """That of this process, with the shim and what steers it: see the head of `fail_calls.c`."""
    return {**os.environ, "LD_PRELOAD": str(library), **{name: str(value) for name, value in variables.items()}}
