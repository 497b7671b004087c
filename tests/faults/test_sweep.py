"""A sweep of eight runs, forks among them, finishes after any process was killed, and repeats no finished run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from seer_edge.sweeps.runner import record_jobs
from seer_edge.sweeps.spec import jobs_of
from tests.faults import runs
from tests.ray_cluster import ray_cluster

SPEC = """
envs = ["Alien", "Krull"]
seeds = [0, 1]
[settings]
mem_budget = "500KB"
total_timesteps = 160
freeze_at = 90
eval_episodes = 1
eval_max_steps = 30
checkpoint_every = 40
log_every = 20
set = {batch_size = 8, learning_starts = 20, hidden = 16, n_step = 3}
[variants.seer]
[variants.uint4]
fork = "seer"
at = 90
latent_codec = "uint4"
"""
NAMES = [f"{env}__{variant}__{seed}" for env in ("Alien", "Krull") for seed in (0, 1) for variant in ("seer", "uint4")]


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield the flags of the engine."""
    if request.param == "local":
        yield []
        return
    with ray_cluster() as address:
        yield ["--engine", "ray", "--ray-address", address]


def _start(folder: Path, *flags: str, plugin: str | None = None) -> "subprocess.Popen[str]":
    (folder / "spec.toml").write_text(SPEC)
    plugins = [] if plugin is None else ["--plugin", plugin]
    words = [sys.executable, "-m", "seer_edge", *plugins, "sweep", "spec.toml", "-o", "out", "--jobs", "2", *flags]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _state(run: Path) -> tuple[str, int]:
    """Return the status of a run and how many processes trained it, or when its summary was written."""
    try:
        return json.loads((run / "summary.json").read_text())["status"], (run / "summary.json").stat().st_mtime_ns
    except (OSError, ValueError):
        return "none", 0


def _finished(out: Path) -> dict[str, tuple[str, int]]:
    return {name: found for name in NAMES if (found := _state(out / name))[0] == "finished"}


def _kill_all(out: Path) -> None:
    """SIGKILL every process that trains a run of the sweep."""
    _signal_runs(out, signal.SIGKILL)


def _signal_runs(out: Path, number: signal.Signals, word: bytes = b"") -> None:
    """Send a signal to every process that trains a run of the sweep and has `word` in its command."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = place.read_bytes().split(b"\0")
            in_folder = (place.parent / "cwd").readlink() == out.parent
            trains = b"seer_edge" in words and (b"train" in words or b"resume" in words or b"fork" in words)
            if in_folder and trains and (word in words or not word):
                os.kill(int(place.parent.name), number)


@pytest.mark.slow
def test_a_sweep_killed_at_three_moments_finishes_without_repeating_a_run(engine: list[str], tmp_path: Path) -> None:
    out, before = tmp_path / "out", dict[str, tuple[str, int]]()
    for moment in range(3):
        sweep, wanted = _start(tmp_path, *engine), (0, 2, 4)[moment]
        # In the first runs, between two, and among the forks.
        runs.wait_until(lambda wanted=wanted: len(_finished(out)) >= wanted and any(out.glob("*/progress.csv")), 300)
        time.sleep(0.7)
        assert sweep.poll() is None
        sweep.kill()
        sweep.wait()
        if moment != 1:  # the runs die with it, or outlive it
            _kill_all(out)
        assert before.items() <= _finished(out).items()
        before = _finished(out)
    sweep = _start(tmp_path, *engine)
    printed, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, errors
    assert before.items() <= _finished(out).items()
    assert sorted(_finished(out)) == sorted(NAMES)
    assert printed.count(" finished ") == len(NAMES)

    straight = tmp_path / "straight"
    flags = ["--env", "Krull", "--seed", "1", "--mem-budget", "500KB", "--total-timesteps", "160", "--freeze-at", "90"]
    flags += ["--eval-episodes", "1", "--eval-max-steps", "30", "--latent-codec", "uint4", "--log-every", "20"]
    for setting in ("batch_size=8", "learning_starts=20", "hidden=16", "n_step=3"):
        flags += ["--set", setting]
    assert runs.start(tmp_path / "log", runs.command, "train", *flags, "--run-dir", straight).join() == 0
    assert runs.fingerprint(runs.newest(straight)) == runs.fingerprint(runs.newest(out / "Krull__uint4__1"))

    again = _start(tmp_path, *engine)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert _finished(out).items() >= before.items()


@pytest.mark.slow
def test_a_stopped_sweep_leaves_resumable_runs_and_no_process(engine: list[str], tmp_path: Path) -> None:
    sweep, out = _start(tmp_path, *engine), tmp_path / "out"
    runs.wait_until(lambda: len({found.parents[1] for found in out.glob("*/checkpoints/step_*")}) == 2, 120)
    sweep.terminate()
    printed, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 128 + signal.SIGTERM
    assert "failed" not in printed
    assert printed.count(" interrupted ") + printed.count(" finished ") == 2
    states = [_state(out / name)[0] for name in NAMES]
    assert states.count("interrupted") + states.count("finished") == 2
    assert not list(out.glob("*/checkpoints/.*"))


@pytest.mark.slow
def test_failures_are_listed_and_the_others_finish(tmp_path: Path) -> None:
    out = tmp_path / "out"
    blocked = out / "Alien__seer__1"
    out.mkdir()
    record_jobs(out, jobs_of(tomllib.loads(SPEC)))
    blocked.mkdir()
    (blocked / "config.json").write_text("{}")  # looks like a run, and cannot be resumed
    sweep = _start(tmp_path)
    printed, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 75, errors
    assert sorted(_finished(out)) == sorted(set(NAMES) - {"Alien__seer__1", "Alien__uint4__1"})
    assert f"failed: {blocked.name}: ended with status 2; see out/logs/{blocked.name}.log" in printed
    assert f"failed: Alien__uint4__1: its parent {blocked.name} failed" in printed


@pytest.mark.slow
def test_a_run_that_a_signal_stops_is_listed_as_interrupted(tmp_path: Path) -> None:
    sweep, out = _start(tmp_path), tmp_path / "out"
    runs.wait_until(lambda: any(out.glob("Alien__seer__1/checkpoints/step_*")), 300)
    _signal_runs(out, signal.SIGTERM, b"--seed=1")
    printed, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 75, errors
    assert "interrupted: Alien__seer__1: interrupted by SIGTERM; repeat the command to resume it" in printed
    assert "failed: Alien__uint4__1: its parent Alien__seer__1 was interrupted" in printed
    assert _state(out / "Alien__seer__1")[0] == "interrupted"


@pytest.mark.slow
def test_a_dry_run_lists_runs_and_hours_and_writes_nothing(tmp_path: Path) -> None:
    places = tmp_path / "places"
    places.mkdir()
    (tmp_path / "counting.py").write_text(f"import os; open(f'{places}/{{os.getpid()}}', 'w').close()")
    sweep = _start(tmp_path, "--dry-run", plugin="counting")
    printed, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    *lines, alien, krull, total = printed.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert alien.startswith("Alien: an evaluation episode of about 30 steps; measured: ")
    assert krull.startswith("Krull: an evaluation episode of about 30 steps; measured: ")
    # Both variants differ in their codec. Both environments share their short runs.
    for number, what in enumerate(("updates of seer", "updates of uint4", "episodes of Alien", "episodes of Krull"), 1):
        assert any(what in line and line.endswith(f"({number} of 4)") for line in errors.splitlines()), errors
    assert len(list(places.iterdir())) == 5  # the sweep itself and four short runs
    assert total.startswith("8 runs, about 0.")
    assert total.endswith("hours with 2 at a time")
    assert {path.name for path in tmp_path.iterdir()} <= {"spec.toml", "counting.py", "__pycache__", "places"}
