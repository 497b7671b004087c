"""A stopped and resumed run equals the undisturbed run bit for bit: parameters, replay and returns."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.config.config import TrainConfig
from seer_edge.config.presets.dqn import DqnSettings
from seer_edge.envs.games import LongPlay
from seer_edge.training.session import Session
from seer_runtime import durable
from seer_runtime.replay.store import CONTINUED
from tests.faults import runs

EXACT = pytest.mark.fault(
    "SIGTERM between any two steps or during an evaluation, then `resume`",
    promise="exit 143; parameters, replay, returns and `progress.csv` equal the undisturbed run's",
)
LIVES = {
    "env": "ALE/RoadRunner-v5",
    "env_name": "RoadRunner",
    "settings": dataclasses.replace(runs.alien().settings, random_steps=160),
}
KINDS: dict[str, tuple[Callable[..., TrainConfig], dict[str, Any], tuple[int, ...]]] = {
    # The freeze is at step 90, an evaluation at step 100.
    "alien": (runs.alien, {}, (7, 90, 131)),
    "alien-prioritized": (runs.alien, {"replay": "prioritized", "protocol": "machado"}, (100,)),
    "alien-dqn": (
        runs.alien,
        {
            "algo": "dqn",
            "settings": DqnSettings(
                batch_size=8, n_step=3, hidden=16, learning_starts=20, target_update_steps=30, exploration_fraction=0.8
            ),
        },
        (7, 90, 131),
    ),
    "lives": (runs.alien, LIVES, (57, 58, 145)),  # lives are lost at steps 57 and 145
    "lives-training": (runs.alien, {**LIVES, "eval_in": "training"}, (58, 145)),  # evaluated at the end only
    "alien-uint8": (runs.alien, {"latent_codec": "uint8"}, (50, 90, 117)),
    "alien-auto": (runs.alien, {"latent_codec": "auto"}, (50, 90, 117)),
    # Compared every 15 steps, and frozen at step 80 at the latest.
    "alien-freeze": (runs.alien, {"freeze_at": 80, "freeze_window": 15}, (45, 60, 80, 117)),
    "compact": (runs.compact, {}, (50, 90, 117)),
    "compact-prioritized": (runs.compact, {"replay": "prioritized", "latent_codec": "float32"}, (45, 91, 92)),
    "compact-auto": (runs.compact, {"latent_codec": "auto"}, (89, 131)),
    "cartpole": (runs.cartpole, {}, (23, 45)),
    "cartpole-compact": (runs.cartpole, {"store": "compact", "latent_codec": "uint8"}, (23, 45)),
    # Episodes have 12 steps, so the evaluations due at steps 20 and 40 are at steps 24 and 48.
    "cartpole-training": (runs.cartpole, {"eval_in": "training", "eval_every": 20}, (20, 24, 47, 48)),
    "cartpole-uint4": (runs.cartpole, {"latent_codec": "uint4"}, (45,)),
    "cartpole-layers": (runs.cartpole, {"freeze_layers": 2, "algo": "curl-sac"}, (40,)),
}


EVERYDAY = ("alien", "lives", "compact")
"""The kinds that `make test` runs; `make test-faults` runs all."""


def stop_at(steps: tuple[int, ...], send: Callable[[Any], None]) -> None:
    """Send SIGTERM to this process after each of `steps`."""
    step = Session.step

    def stepping(session: Session) -> Any:
        report = step(session)
        if session.timestep in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return report

    Session.step = stepping  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the undisturbed run of a kind."""
    done = {"alien": runs.undisturbed(tmp_path_factory)}

    def run(kind: str) -> Path:
        if kind not in done:
            build, changes, _ = KINDS[kind]
            folder = tmp_path_factory.mktemp(kind)
            assert runs.start(folder / "log", runs.train, build(**changes), folder / "run").join() == 0
            done[kind] = folder / "run"
        return done[kind]

    return run


@EXACT
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in EVERYDAY else pytest.mark.faults) for kind in KINDS]
)
def test_a_stopped_run_ends_identically(kind: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    build, changes, steps = KINDS[kind]
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(log, runs.train, build(**changes), path, prepare=functools.partial(stop_at, steps))
    assert child.join() == 143, log.read_text()
    for index, step in enumerate(steps):
        assert runs.newest(path).name == f"step_{step:010d}"
        assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
        child = runs.start(log, runs.command, "resume", path, prepare=functools.partial(stop_at, steps[index + 1 :]))
        assert child.join() == (143 if index + 1 < len(steps) else 0), log.read_text()
        assert f"resumed at step {step} of" in log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(whole(kind)))
    assert runs.results(path) == runs.results(whole(kind))
    assert json.loads((path / "summary.json").read_text())["resumed_at"] == list(steps)


def stop_in_evaluation(calls: tuple[int, ...], send: Callable[[Any], None]) -> None:
    """Send SIGTERM to this process at each of the steps `calls` of its evaluations."""
    reported, count = LongPlay.__call__, itertools.count(1)

    def reporting(report: LongPlay, episode: Any) -> None:
        if next(count) in calls:
            os.kill(os.getpid(), signal.SIGTERM)
        reported(report, episode)

    LongPlay.__call__ = reporting  # type: ignore[method-assign]


@EXACT
@pytest.mark.faults
@pytest.mark.parametrize("step", [5, 20])
def test_a_run_stopped_while_it_evaluates_in_its_own_environment_ends_identically(
    step: int, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    build, changes, _ = KINDS["cartpole-training"]
    prepare = functools.partial(stop_in_evaluation, (step,))
    assert runs.start(log, runs.train, build(**changes), path, prepare=prepare).join() == 143, log.read_text()
    # An evaluation has 12 steps.
    assert runs.newest(path).name == f"step_{24 if step < 12 else 48:010d}"
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(whole("cartpole-training")))
    assert runs.results(path) == runs.results(whole("cartpole-training"))


def test_the_run_with_lost_lives_loses_them_at_the_expected_steps(whole: Callable[[str], Path]) -> None:
    replay = durable.read_tensors(runs.newest(whole("lives")) / "replay.safetensors")
    appended = json.loads((runs.newest(whole("lives")) / "state.json").read_text())["replay"]["layout"]["appended"]
    assert (np.flatnonzero(replay["flags"] & CONTINUED) + appended - len(replay["flags"])).tolist() == [56, 144]
    assert (np.diff(replay["age"]) == 1).all()


def test_checkpoints_do_not_change_the_run(whole: Callable[[str], Path], tmp_path: Path) -> None:
    never = runs.alien(checkpoint_every_steps=None, checkpoint_every_seconds=1e6)
    assert runs.start(tmp_path / "log", runs.train, never, tmp_path / "run").join() == 0
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert names == {"step_0000000090", "step_0000000160"}
    assert runs.fingerprint(runs.newest(tmp_path / "run")) == runs.fingerprint(runs.newest(whole("alien")))
    assert runs.results(tmp_path / "run") == runs.results(whole("alien"))


def test_resume_checks_a_finished_run_and_changes_nothing(whole: Callable[[str], Path], tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(whole("alien"), path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert runs.start(log, runs.command, "resume", path).join() == 0
    assert log.read_text() == f"{path}: finished at step 160; step_0000000160 is undamaged\n"
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_resume_finishes_a_run_killed_before_its_final_summary(whole: Callable[[str], Path], tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(whole("alien"), path)
    summary = path / "summary.json"
    summary.write_text(summary.read_text().replace('"finished"', '"running"'))
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert runs.results(path) == runs.results(whole("alien"))


def test_a_finished_run_can_be_extended(whole: Callable[[str], Path], tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(whole("alien"), path)
    assert runs.start(log, runs.command, "resume", path, "--total-timesteps", "170").join() == 0, log.read_text()
    assert runs.newest(path).name == "step_0000000170"
    assert json.loads((path / "config.json").read_text())["total_timesteps"] == 170


@pytest.mark.fault(
    "`resume` with a smaller or larger budget",
    promise="the newest rows that fit are kept; the number of dropped rows is reported; the new budget holds",
)
@pytest.mark.parametrize(
    ("frames", "stop"),
    [(40, 70), (120, 131), *(pytest.param(*case, marks=pytest.mark.faults) for case in ((40, 131), (120, 70)))],
)
def test_resume_with_another_budget_keeps_the_newest_rows(stop: int, frames: int, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    config = runs.alien(eval_every=160)
    assert runs.start(log, runs.train, config, path, prepare=functools.partial(stop_at, (stop,))).join() == 143
    rows = json.loads((path / "summary.json").read_text())["replay"]["rows"]
    assert runs.start(log, runs.command, "resume", path, "--mem-budget", str(frames * 7056)).join() == 0, (
        log.read_text()
    )
    capacity = frames if stop < 90 else frames * 7056 // 2304
    dropped = max(0, rows - capacity)
    text = log.read_text()
    assert (
        f"dropped the oldest {dropped:,} rows, which do not fit into this budget; kept the newest {capacity:,}" in text
    ) == (dropped > 0)
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert 0 < summary["budget"]["observation_bytes_peak"] <= summary["budget"]["limit_bytes"] == frames * 7056
    assert json.loads((path / "config.json").read_text())["mem_budget_bytes"] == frames * 7056


@pytest.mark.parametrize("stop", [70, 131])
def test_resume_of_compressed_rows_with_another_budget(stop: int, tmp_path: Path) -> None:
    """The blocks of rows fit in both arenas."""
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(stop_at, (stop,))
    assert runs.start(log, runs.train, runs.compact(mem_budget_bytes=40 * 7056), path, prepare=prepare).join() == 143
    rows = json.loads((path / "summary.json").read_text())["replay"]["rows"]
    assert runs.start(log, runs.command, "resume", path, "--mem-budget", str(24 * 7056)).join() == 0, log.read_text()
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["replay"]["rows"] > rows
    assert summary["budget"]["observation_bytes_peak"] == summary["budget"]["limit_bytes"] == 24 * 7056


# --- an environment that cannot be saved -------------------------------------------------------------------


def test_resume_without_a_saved_environment_starts_a_new_episode_and_reports_it(tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    game = {
        "env": "tests.end_to_end.pixel_match:PixelMatch-v0",
        "env_name": "PixelMatch-v0",
        "mem_budget_bytes": 200_000,
    }
    config = runs.alien(**game)
    assert runs.start(log, runs.train, config, path, prepare=functools.partial(stop_at, (77,))).join() == 143
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert "note: the environment saved no state: a new episode begins" in log.read_text()


@pytest.mark.faults
def test_auto_equals_a_run_with_the_chosen_codec(whole: Callable[[str], Path], tmp_path: Path) -> None:
    """The configuration says auto up to the freeze, and names the chosen codec after it."""
    path, log = tmp_path / "run", tmp_path / "log"
    child = runs.start(
        log, runs.train, runs.alien(latent_codec="auto"), path, prepare=functools.partial(stop_at, (90,))
    )
    assert child.join() == 143
    assert _codec(runs.newest(path)) == _codec(path) == "auto"  # the freeze at step 90 comes later
    assert runs.start(log, runs.command, "resume", path).join() == 0
    chosen = _codec(path)
    summary = json.loads((path / "summary.json").read_text())
    assert _codec(runs.newest(path)) == summary["replay"]["latent_codec"] == chosen != "auto"
    tried = summary["freeze"]["codec_errors"]
    assert f"latent codec {chosen}; error of the head's outputs: uint4 {tried['uint4']:.2%}" in log.read_text()
    assert chosen in (list(tried)[-1], "float32")

    given = tmp_path / "given"
    assert runs.start(log, runs.train, runs.alien(latent_codec=chosen), given).join() == 0
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(given))
    assert runs.results(path)["replay"] == runs.results(given)["replay"]
    assert "differs from the checkpoint" not in log.read_text()


def _codec(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["latent_codec"])
