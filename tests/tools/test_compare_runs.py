"""compare_runs and plot_run plot runs and reject bad input."""

import csv
import json
from pathlib import Path

import pytest

from seer_edge.training.tables import COLUMNS
from tests.processes import forked_tool

TOOLS = Path(__file__).parents[2] / "tools"
COMPARE, PLOT = TOOLS / "compare_runs.py", TOOLS / "plot_run.py"


def _run(folder: Path, freeze_at: int | None, evaluations: int) -> Path:
    folder.mkdir()
    config = {"env_name": "Any", "algo": "rainbow", "freeze_at": freeze_at, "seed": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "progress.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in range(1, 4):
            evaluation = {"eval/mean_reward": row, "eval/std_reward": 0.5} if row <= evaluations else {}
            writer.writerow(
                {"time/total_timesteps": row, "time/time_elapsed": 60 * row, "compute/flops": row, **evaluation}
            )
    return folder


def test_two_runs_are_plotted(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "frozen", 2, 3), _run(tmp_path / "never", None, 1)]
    done = forked_tool(COMPARE, *runs, "-o", tmp_path / "both.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_an_evaluation_is_rejected(tmp_path: Path) -> None:
    run = _run(tmp_path / "none", 2, 0)
    done = forked_tool(COMPARE, run, "-o", tmp_path / "none.png")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{run}: not a run to compare (it has no evaluation yet); " in line
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("tool", [COMPARE, PLOT])
@pytest.mark.parametrize(
    ("out", "named"),
    [
        ("c.foo", "c.foo is not an image name; end it in .png"),
        ("c", "c is not an image name; end it in .png"),
        ("none/c.png", "none is not a folder; name a file in an existing folder"),
        (".", "is a folder; name a file"),
    ],
)
def test_a_bad_output_path_is_reported_in_one_line(tool: Path, out: str, named: str, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", 2, 3)
    done = forked_tool(tool, run, "-o", tmp_path / out)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tool.name}: -o/--out: ")
    assert named in line
    assert list(tmp_path.iterdir()) == [run]


@pytest.mark.parametrize("tool", [COMPARE, PLOT])
def test_a_folder_that_is_not_a_run_is_reported_in_one_line(tool: Path, tmp_path: Path) -> None:
    done = forked_tool(tool, tmp_path / "nowhere", "-o", tmp_path / "c.png")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tool.name}: {tmp_path / 'nowhere'}: not a run")
