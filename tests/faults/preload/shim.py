"""Build `fail_calls.c`, a preloaded library that makes system calls fail, and the environment to run under it."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fail_calls.c")


def build(folder: Path) -> Path:
    """Compile the shim into `folder`; return its path. Raises AssertionError without a C compiler or on an error."""
    compiler = shutil.which("cc")
    assert compiler is not None, "cc is missing: faults in system calls need a C compiler (Debian package gcc)"
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
    """Return this process's environment with the shim and its variables, which `fail_calls.c` describes."""
    return {**os.environ, "LD_PRELOAD": str(library), **{name: str(value) for name, value in variables.items()}}
