"""ONNX Runtime's telemetry is off on every path, unless the user asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

OPEN_A_SESSION = """
from seer_runtime.onnx.encoder import OnnxEncoder, has_cuda
from seer_runtime.system.ledger import Ledger
from tests.runtime.onnx_graphs import small_model
has_cuda()
OnnxEncoder(small_model().SerializeToString(), threads=1, ledger=Ledger({}))
"""
USER_IMPORTS_IT = "import seer_runtime, onnxruntime"
COMMAND_LINE_FIRST = "import seer_edge.cli, onnxruntime"


def _left_at_home(code: str, home: Path, **variables: str) -> list[str]:
    """Run `code` without CI in an empty home; return the files that it leaves there."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    kept |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    subprocess.run([sys.executable, "-c", code], env=kept, cwd=PROJECT, check=True, timeout=120)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("code", [OPEN_A_SESSION, USER_IMPORTS_IT, COMMAND_LINE_FIRST])
def test_onnx_runtime_leaves_nothing_at_home(code: str, tmp_path: Path) -> None:
    assert _left_at_home(code, tmp_path) == []


def test_the_environment_variable_of_the_user_is_kept(tmp_path: Path) -> None:
    code = "import os, seer_runtime; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    _left_at_home(code, tmp_path, ORT_DISABLE_TELEMETRY="0")
