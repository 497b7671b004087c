"""A frozen run needs no memory for frames: it can be resumed and used with a budget for latents alone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.short_presets import GAME, Run, trained_run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a checkpoint from before its freeze."""
    return trained_run(tmp_path_factory.mktemp("runs") / "source", "--env", GAME, "--keep-checkpoint", "25")


def _least(run: Run, path: Path) -> int:
    """Return the smallest budget that `resume` accepts, as its message gives it."""
    status, _, error = run("resume", path, "--mem-budget", "1", "--total-timesteps", "80")
    assert (status, error.count("\n")) == (2, 1), error
    return int(re.search(r"give at least (\d+) B", error).group(1))


def test_a_frozen_run_resumes_and_is_used_with_a_budget_for_latents_alone(
    run: Run, source: Path, tmp_path: Path
) -> None:
    path, before = tmp_path / "run", tmp_path / "before"
    shutil.copytree(source, path)
    assert run("fork", path, "-o", before, "--at", "25")[0] == 0
    least = _least(run, path)
    assert least < _least(run, before) / 4
    status, out, error = run("resume", path, "--mem-budget", str(least), "--total-timesteps", "80")
    assert status == 0, error
    assert "activations of an update (estimate)  0 B" in out
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["budget"]["observation_bytes_peak"] <= least
    assert run("eval", path)[0] == 0
    assert run("export", path, "-o", tmp_path / "policy.seer")[0] == 0
    assert run("fork", path, "-o", tmp_path / "fork", "--at", "80", "--total-timesteps", "85")[0] == 0
    assert run("resume", tmp_path / "fork")[0] == 0
