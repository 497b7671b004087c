"""tickbench measures control of a real run in real time, and rejects input that it cannot measure."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import forked_tool

TICKBENCH = Path(__file__).parents[2] / "tools" / "tickbench.py"
sys.path.insert(0, str(TICKBENCH.parent))

import tickbench  # noqa: E402

COLUMNS = ("ticks", "missed")


@pytest.mark.integration
def test_both_phases_the_whole_run_and_an_idle_loop_are_measured(tmp_path: Path) -> None:
    flags = ("--hz", "100", "--steps", "200", "--write-rate", "50MB", "--busy", "1")
    done = forked_tool(TICKBENCH, *flags, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    title, header, *lines = done.stdout.splitlines()
    assert title.startswith("pole:Pole-v0 at 100 Hz, 1 busy processes meanwhile; ")
    assert header.split()[: len(COLUMNS)] == [*COLUMNS]
    counts = {}
    for name, line in zip(("on frames", "on latents", "whole run", "idle loop"), lines, strict=True):
        assert line.startswith(name)
        cells = line.removeprefix(name).split()
        counts[name] = [int(cell.replace(",", "")) for cell in cells[: len(COLUMNS)]]
        p50, p99, worst = map(float, cells[len(COLUMNS) :][:3])
        assert 0 <= p50 <= p99 <= worst
    frames, latents, whole, idle = counts.values()
    assert [sum(pair) for pair in zip(frames, latents, strict=True)] == whole
    assert min(frames[0], latents[0], idle[0]) > 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [figures["real_time"][name] for name in COLUMNS] == whole
    assert [figures["idle_loop"][name] for name in COLUMNS] == idle
    for loop, line in zip(("real_time", "idle_loop"), lines[2:], strict=True):  # the same units as in the table
        shown = [float(cell) for cell in line.split()[4:7]]
        assert [figures[loop]["lateness_ms"][name] for name in ("p50", "p99", "worst")] == pytest.approx(
            shown, abs=0.006
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hz", "0"], ["--hz", "'0'"]),
        (["--steps", "199"], ["--steps", "'199'", "200"]),
        (["--write-rate", "fast"], ["--write-rate", "'fast'"]),
        (["--busy", "-1"], ["--busy", "'-1'"]),
        (["--json", "nowhere/figures.json"], ["--json", "nowhere", "name a file in an existing folder"]),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], words: list[str]) -> None:
    done = forked_tool(TICKBENCH, *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "Nowhere"], ["--env Nowhere", "unknown environment"]),
        (["--hz", "1001"], ["--hz 1001", "from 0.001 to 1000"]),
        (["--mem-budget", "1KB"], ["--mem-budget 1000 B", "give at least"]),
    ],
)
def test_a_run_that_cannot_start_is_reported_in_one_line(arguments: list[str], words: list[str]) -> None:
    done = forked_tool(TICKBENCH, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    _, line = done.stderr.splitlines()
    assert all(word in line for word in words), done.stderr


def test_the_figures_of_a_run_with_a_refused_freeze_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        (folder / "progress.csv").write_text("seer/frozen\n")
        late = {"p50": 0.1, "p99": 0.2, "worst": 0.3}
        ticks = {"ticks": 200, "missed": 0, "later_than_5_ms": 0, "lateness_ms": late}
        more = {"age_of_observation_ms": {"p99": 1.0}, "updates_per_step": 1.0, "dropped_steps": 0}
        return {"real_time": ticks | more, "freeze": None, "freeze_refused": "the encoders differ"}

    monkeypatch.setattr(tickbench, "train", train)
    monkeypatch.setattr("sys.argv", ["tickbench.py", "--steps", "200", "--hz", "100"])
    assert tickbench.main() == 0
    title, _, whole, idle = capsys.readouterr().out.splitlines()
    assert title.endswith("; freeze refused (the encoders differ)")
    assert whole.startswith("whole run")
    assert idle.startswith("idle loop")
