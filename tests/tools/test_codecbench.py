"""codecbench measures every codec on a real run's latents and rejects bad input."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime.replay.codecs import LATENT_CODECS
from tests.faults import runs
from tests.processes import forked_tool

CODECBENCH = Path(__file__).parents[2] / "tools" / "codecbench.py"


def test_denser_codecs_have_larger_errors(tmp_path_factory: pytest.TempPathFactory) -> None:
    done = forked_tool(CODECBENCH, runs.undisturbed(tmp_path_factory), "--rows", "50")
    assert done.returncode == 0, done.stderr
    _, *lines, about, silent = done.stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(table) == list(LATENT_CODECS)
    assert [int(cells[0].replace(",", "")) for cells in table.values()] == [2304, 1152, 576, 288]
    rms, mean, largest = ([float(cells[column].removesuffix("%")) for cells in table.values()] for column in (2, 3, 4))
    for errors in (rms, mean):
        assert errors[0] == 0 <= errors[1] <= errors[2] < errors[3]
    # A single clipped row may decide the largest error of either integer codec.
    assert largest[0] == 0 <= largest[1] <= min(largest[2:])
    assert table["float32"][1:] == ["0.0e+00", "0.00%", "0.00%", "0.0%", "100.0%"]
    assert about.startswith("ALE/Alien-v5, step 160: calibrated on ")
    assert " of 576 dimensions are zero on all " in silent


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latent_codec": "uint8"}, "float32"),
        pytest.param({"freeze_at": None}, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_float32_latents_is_rejected(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    config = runs.alien(total_timesteps=100, eval_every=100, **changes)
    assert runs.start(tmp_path / "log", runs.train, config, tmp_path / "run").join() == 0
    for folder in (tmp_path / "run", tmp_path / "nowhere"):
        done = forked_tool(CODECBENCH, folder)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert str(folder) in line
        assert (
            named if folder.name == "run" else "there is no such file or folder; give the --run-dir of a run"
        ) in line


@pytest.mark.slow
def test_before_the_freeze_it_prints_the_errors_that_auto_uses(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = runs.start(
        tmp_path / "log", runs.train, runs.alien(latent_codec="auto", pipeline=False), run, prepare=_stop_at_the_freeze
    )
    assert stopped.join() == 143
    done = forked_tool(CODECBENCH, run)
    assert done.returncode == 0, done.stderr
    _, *lines, about, blank, noise = done.stdout.splitlines()
    errors = {line.split()[0]: line.split()[4] for line in lines}
    assert about.startswith("ALE/Alien-v5, step 90, before the freeze: calibrated on ")
    assert blank.startswith("output mean without the ")
    assert float(noise.split(" by ")[1].split("%")[0]) > 0
    assert runs.start(tmp_path / "log", runs.command, "resume", run).join() == 0
    judged = json.loads((run / "summary.json").read_text())["freeze"]["codec_errors"]
    assert judged
    assert {name: errors[name] for name in judged} == {name: f"{error:.2%}" for name, error in judged.items()}


def _stop_at_the_freeze(send: Callable[[Any], None]) -> None:
    runs.at_call("seer_edge.training.session:Session.step", 90, lambda: os.kill(os.getpid(), signal.SIGTERM))
