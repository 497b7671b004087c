"""armruns forks one run into continuations of both arms, resumes stopped ones, and prints their returns."""

import csv
import dataclasses
import functools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from tests.faults import runs

ARMRUNS = Path(__file__).parents[2] / "tools" / "armruns.py"
STOPPED, END = 40, 400
RANDOM = dataclasses.replace(runs.alien().settings, random_steps=END, learning_starts=380)
GAME = {"env": "ALE/RoadRunner-v5", "env_name": "RoadRunner", "settings": RANDOM, "resolution": 25}


def _armruns(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ARMRUNS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _stop_at(step: int, send: Callable[[Any], None]) -> None:
    runs.at_call("seer_edge.training.session:Session.step", step, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _replay(run: Path) -> dict[str, Any]:
    return durable.read_tensors(runs.newest(run) / "replay.safetensors")


def _agent(run: Path) -> dict[str, Any]:
    return durable.read_tensors(runs.newest(run) / "agent.safetensors")


@pytest.mark.slow
def test_continuations_differ_and_the_table_is_of_their_late_games(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    config = runs.alien(**GAME, total_timesteps=END, freeze_at=None, eval_every=END, mem_budget_bytes=END * 625)
    assert (
        runs.start(tmp_path / "log", runs.train, config, base, prepare=functools.partial(_stop_at, STOPPED)).join()
        == 128 + signal.SIGTERM
    )
    for only in (["--only", "kept-0"], []):
        done = _armruns("run", base, out, "--arms", "kept,blank", "--continuations", "2", "--jobs", "2", *only)
        assert done.returncode == 0, done.stderr
    assert "kept-0" not in done.stderr.split()  # it was finished before
    names = ["blank-0", "blank-1", "kept-0", "kept-1"]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == names
    configs = {name: json.loads((out / name / "config.json").read_text()) for name in names}
    assert [configs[name]["blank_at_lost_life"] for name in names] == [True, True, False, False]
    assert [configs[name]["seed"] for name in names] == [1, 2, 1, 2]

    replays = {name: _replay(out / name) for name in names}
    for name in names:
        np.testing.assert_array_equal(replays[name]["action"][:STOPPED], _replay(base)["action"])
    after = {name: replay["action"][STOPPED:] for name, replay in replays.items()}
    assert np.array_equal(after["kept-0"], after["blank-0"])  # the same random actions
    assert not np.array_equal(after["kept-0"][:100], after["kept-1"][:100])
    for name in names:
        flags, age = replays[name]["flags"], replays[name]["age"]
        lives = (flags & 8).astype(bool)
        assert lives.any() == name.startswith("kept")
        assert ((flags & 1) > 0).sum() > lives.sum()
        assert (age[1:][lives[:-1]] > 0).all()

    late = {}
    for name in names:
        with (out / name / "episodes.csv").open(newline="") as file:
            games = [(int(row["step"]), float(row["return"])) for row in csv.DictReader(file)]
        late[name] = [value for step, value in games if step > END - (END - STOPPED) / 4]
    assert any(late.values())
    shutil.copytree(out / "kept-0", out / "kept-2")
    summary = json.loads((out / "kept-2/summary.json").read_text())
    (out / "kept-2/summary.json").write_text(json.dumps({**summary, "status": "running"}))
    table = _armruns("table", out)
    assert table.returncode == 0, table.stderr
    cells = {line.split()[0]: line.split()[1:] for line in table.stdout.splitlines()[2:7]}
    assert cells.pop("kept-2") == ["-", "0"]
    assert cells == {
        name: [f"{statistics.fmean(returns):,.1f}", str(len(returns))] if returns else ["-", "0"]
        for name, returns in late.items()
    }
    if all(late.values()):
        arms = [[statistics.fmean(late[f"{arm}-{i}"]) for i in range(2)] for arm in ("kept", "blank")]
        error = (sum(statistics.variance(means) / 2 for means in arms)) ** 0.5
        difference = statistics.fmean(arms[0]) - statistics.fmean(arms[1])
        assert f"kept - blank: {difference:,.1f} ± {error:,.1f} (standard error)" in table.stdout


@pytest.mark.integration
@pytest.mark.parametrize(("arm", "build", "stopped"), [("fresh", runs.alien, 20), ("twice", runs.cartpole, 16)])
def test_an_arm_with_its_own_code_trains_otherwise(
    arm: str, build: Callable[..., Any], stopped: int, tmp_path: Path
) -> None:
    stop = functools.partial(_stop_at, stopped)
    base, out = tmp_path / "base", tmp_path / "out"
    assert runs.start(tmp_path / "log", runs.train, build(), base, prepare=stop).join() == 128 + signal.SIGTERM
    done = _armruns("run", base, out, "--arms", f"kept,{arm}", "--continuations", "1")
    assert done.returncode == 0, done.stderr
    kept, changed = (
        durable.read_tensors(runs.newest(out / f"{name}-0") / "agent.safetensors") for name in ("kept", arm)
    )
    same = [name for name in kept if np.array_equal(kept[name], changed[name])]
    assert any(name.startswith("encoder.") for name in same) == (arm == "fresh")
    assert len(same) < len(kept)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "no-such-run", "out", "--arms", "kept"), "no-such-run"),
        (("run", "no-such-run", "out"), "the following arguments are required: --arms"),
        (
            ("run", "no-such-run", "out", "--arms", "kept,half"),
            "--arms kept,half: unknown arm; name some of kept,blank,fresh,twice",
        ),
        (
            ("run", "no-such-run", "out", "--arms", "kept", "--only", "kept-6"),
            "--only kept-6: no such continuation; name one of kept-0,",
        ),
        (("table", "no-such-folder"), "no-such-folder: has no runs of armruns.py; give the OUT"),
    ],
)
def test_bad_input_is_reported_in_one_line(words: tuple[str, ...], message: str) -> None:
    done = _armruns(*words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line
