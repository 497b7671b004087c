"""Forks of codecruns equal runs with the same flags from the start, and its counts of latents are right."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_edge.runs import checkpoint
from seer_runtime import durable
from tests.faults import runs

CODECRUNS = Path(__file__).parents[2] / "tools" / "codecruns.py"
STOPPED, FROZEN, END = 85, 90, 160


def _codecruns(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CODECRUNS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _stop_before_the_freeze(tell: Callable[[Any], None]) -> None:
    runs.at_call("seer_edge.training.session:Session.step", STOPPED, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _rows(run: Path) -> NDArray[np.float32]:
    """Return the latents `[B, L]` in the run's newest checkpoint, oldest first; its ring is not full."""
    tensors = durable.read_tensors(checkpoint.newest(run / "checkpoints").path / checkpoint.REPLAY)
    return tensors["rows"].view(np.float32)


@pytest.mark.slow
def test_a_fork_equals_a_run_with_its_flags_from_the_start(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "Alien"
    config = runs.alien(eval_every=1_000)
    stopped = runs.start(tmp_path / "log", runs.train, config, base, prepare=_stop_before_the_freeze)
    assert stopped.join() == 128 + signal.SIGTERM
    for _ in range(2):  # the second call has nothing left to do
        done = _codecruns("run", base, out, "--codecs", "float32", "uint4")
        assert done.returncode == 0, done.stderr
    for codec in ("float32", "uint4"):
        straight = tmp_path / f"straight_{codec}"
        config = runs.alien(eval_every=1_000, latent_codec=codec)
        assert runs.start(tmp_path / "log", runs.train, config, straight).join() == 0
        assert runs.newest(out / codec).name == f"step_{END:010d}"
        assert runs.fingerprint(runs.newest(out / codec)) == runs.fingerprint(runs.newest(straight))

    table = _codecruns("table", out, "--rows", "40", "--csv", tmp_path / "t.csv", "--plot", tmp_path / "t.png")
    assert table.returncode == 0, table.stderr
    title, _, *lines, silent, _ = table.stdout.splitlines()
    assert title.startswith("Alien, return of 1 games")
    cells = {line.split()[0]: line.split() for line in lines}
    assert cells["float32"][-3:] == ["0.00%", "0.0%", "100.0%"]
    assert float(cells["uint4"][-3].removesuffix("%")) > 0
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [(line["codec"], line["step"]) for line in csv.DictReader(file)] == [
            ("float32", "160"),
            ("uint4", "160"),
        ]
    assert (tmp_path / "t.png").stat().st_size > 0

    held = _rows(out / "float32")
    carried = int(silent.split(" rows of the freeze")[0].split()[-1])
    quiet = ~held[:carried].any(axis=0)
    later = held[carried:] != 0
    speaking = int((later[:, quiet].any(axis=0)).sum())
    assert silent.startswith(f"{quiet.sum()} of {held.shape[1]} dimensions are zero on all {carried} rows")
    assert f"{speaking} of them are nonzero on some of {len(later)} later rows" in silent
    assert silent.endswith(f"{later[:, quiet].any(axis=1).sum()} rows have such a value")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_base_that_is_not_before_its_freeze_is_rejected(frozen: bool, tmp_path: Path) -> None:
    config = runs.alien(total_timesteps=100, eval_every=100, freeze_at=90 if frozen else None)
    assert runs.start(tmp_path / "log", runs.train, config, tmp_path / "run").join() == 0
    done = _codecruns("run", tmp_path / "run", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "run") in line
    assert "before a freeze" in line
    assert not (tmp_path / "out").exists()
