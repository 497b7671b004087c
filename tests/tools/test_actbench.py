"""actbench measures acting on real frames and rejects bad input."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seer_edge.cli import main
from tests.faults import runs

ACTBENCH = Path(__file__).parents[2] / "tools" / "actbench.py"


def _actbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ACTBENCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_actbench_measures_and_compares_with_the_torch_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, bundle = tmp_path / "run", tmp_path / "p.seer"
    assert runs.start(tmp_path / "log", runs.train, runs.alien(), run).join() == 0
    monkeypatch.setattr("sys.argv", ["seer-edge", "export", str(run), "-o", str(bundle)])
    assert main() == 0
    other = tmp_path / "other"
    assert runs.start(tmp_path / "log", runs.train, runs.alien(seed=1), other).join() == 0
    for folder, named in ((other, "p.seer is not from step 160 of this run"), (tmp_path / "no", "no such")):
        rejected = _actbench(bundle, "--run", folder, "--frames", "60")
        assert (rejected.returncode, rejected.stdout) == (2, "")
        (line,) = rejected.stderr.splitlines()
        assert str(folder) in line
        assert named in line
    done = _actbench(bundle, "--run", run, "--frames", "60")
    assert done.returncode == 0, done.stderr
    start, latency, alone, torch, together, actions = done.stdout.splitlines()
    assert 0 < float(re.findall(r"[\d.]+", start)[0]) < 60
    p50, p90, p99 = (float(value) for value in re.findall(r"p\d+ ([\d.]+) ms", latency))
    assert 0 < p50 <= p90 <= p99
    assert 30 < float(re.findall(r"[\d.]+", alone)[0]) < float(re.findall(r"[\d.]+", together)[0])
    assert torch.split()[-1] == "no"
    same, of, ties, others = (int(value) for value in re.findall(r"\d+", actions))
    assert (same + ties, of, others) == (60, 60, 0)


def test_a_missing_bundle_is_rejected(tmp_path: Path) -> None:
    done = _actbench(tmp_path / "nowhere")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "nowhere: not a file" in line
