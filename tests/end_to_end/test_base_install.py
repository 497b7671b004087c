"""Commands without the packages of the extra `train`."""

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.short_presets import PIXEL_GAME

ROOT = Path(__file__).parents[2]


TORCH_FREE = """
import sys
for name in ("torch", "onnx", "tqdm", "matplotlib", "safetensors"):
    sys.modules[name] = None  # importing it fails
sys.argv = ["seer-edge", *sys.argv[1:]]
from seer_edge.cli import main
sys.exit(main())
"""


def _torch_free(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TORCH_FREE, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_base_install_acts_evaluates_and_plans(bundle: Path) -> None:
    for words in (("act", bundle, "--episodes", "1"), ("eval", bundle), ("plan", *PIXEL_GAME)):
        done = _torch_free(*words)
        assert (done.returncode, done.stderr) == (0, "")


def test_commands_without_their_extra_name_it(bundle: Path, frozen: Path, tmp_path: Path) -> None:
    for words, message in (
        (("train", *PIXEL_GAME, "--run-dir", tmp_path / "run"), "learning needs"),
        (("train", *PIXEL_GAME, "--from", bundle, "--run-dir", tmp_path / "run"), "learning needs"),
        (("export", frozen, "-o", tmp_path / "p.seer"), "onnx is missing"),
        (("plan", *PIXEL_GAME, "--device", "cuda"), "--device cuda: needs torch"),
    ):
        done = _torch_free(*words)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert message in line
        assert "pip install 'seer-edge[train]'" in line
    assert list(tmp_path.iterdir()) == []
