"""`tools/find_python.sh` prints only interpreters that work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
WORKS = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
FAILS = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def _find(root: Path, *versions: str) -> subprocess.CompletedProcess[str]:
    """Run the script with two folders of `root` on PATH, one with a space in its name, and `root/pyenv` as pyenv's."""
    variables = {"PATH": f"{root}/shims:{root}/some bin", "PYENV_ROOT": f"{root}/pyenv", "HOME": os.environ["HOME"]}
    command = ["/bin/sh", PROJECT / "tools/find_python.sh", *versions]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("folder", ["some bin", f"pyenv/versions/{OWN}.9/bin"])
def test_a_failing_shim_is_skipped_for_a_later_interpreter(folder: str, tmp_path: Path) -> None:
    _script(tmp_path / f"shims/python{OWN}", FAILS)
    working = _script(tmp_path / folder / f"python{OWN}", WORKS)
    found = _find(tmp_path, OWN)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{working}\n", "")


def test_an_interpreter_whose_version_differs_from_its_name_is_skipped(tmp_path: Path) -> None:
    _script(tmp_path / "shims/python3.99", WORKS)
    found = _find(tmp_path, "3.99")
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")


def test_the_first_version_that_is_installed_is_printed(tmp_path: Path) -> None:
    working = _script(tmp_path / f"some bin/python{OWN}", WORKS)
    assert _find(tmp_path, "3.99", OWN).stdout == f"{working}\n"


def test_an_interpreter_is_found_without_a_home_folder(tmp_path: Path) -> None:
    working = _script(tmp_path / f"bin/python{OWN}", WORKS)
    command = ["/bin/sh", PROJECT / "tools/find_python.sh", OWN]
    found = subprocess.run(command, env={"PATH": f"{tmp_path}/bin"}, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{working}\n", "")
