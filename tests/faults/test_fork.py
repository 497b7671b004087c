"""Forks share their parent's run up to a step: without changes they end as it does, with changes they differ later."""

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_edge.config.config import TrainConfig
from seer_runtime import durable
from tests.faults import runs

FREEZE_AT, END = {"alien": 90, "compact": 90, "cartpole": 36}, {"alien": 160, "compact": 160, "cartpole": 60}
KEPT = {"alien": 44, "compact": 44, "cartpole": 24}


def _family(folders: pytest.TempPathFactory, build: Callable[..., TrainConfig]) -> Path:
    """Return a finished run of `build()` that kept one checkpoint of its pixel phase and the one before the freeze."""
    name = build.__name__
    path = folders.getbasetemp() / f"family_{name}" / "run"
    if not path.exists():
        path.parent.mkdir()
        config = build(keep_checkpoint=(KEPT[name], FREEZE_AT[name]))
        assert runs.start(path.parent / "log", runs.train, config, path).join() == 0
    return path


def _fork(parent: Path, target: Path, *flags: str) -> Path:
    for words in (("fork", parent, "-o", target, *flags), ("resume", target)):
        child = runs.start(target.parent / "log", runs.command, *words)
        assert child.join() == 0, child.log.read_text()
    return target


def _end(run: Path) -> dict[str, str]:
    return runs.fingerprint(runs.newest(run))


def _actions(run: Path) -> Any:
    return durable.read_tensors(runs.newest(run) / "replay.safetensors")["action"]


@pytest.mark.parametrize(
    "build", [runs.alien, *(pytest.param(other, marks=pytest.mark.slow) for other in (runs.compact, runs.cartpole))]
)
@pytest.mark.parametrize("at", [KEPT, FREEZE_AT, END])
def test_a_fork_that_changes_nothing_ends_as_its_parent(
    build: Callable[..., TrainConfig], at: dict[str, int], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent, step = _family(tmp_path_factory, build), at[build.__name__]
    fork = _fork(parent, tmp_path / "fork", "--at", str(step))
    assert _end(fork) == _end(parent)
    assert runs.results(fork) == runs.results(parent)
    manifest = parent / "checkpoints" / f"step_{step:010d}" / "manifest.json"
    origin = {"run": str(parent), "step": step, "checkpoint": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    for file in ("config.json", "summary.json"):
        assert json.loads((fork / file).read_text())["origin"] == origin


def test_forks_at_one_step_differ_only_after_it(tmp_path: Path) -> None:
    # The replay holds every row, and the actions are random.
    parent, settings = tmp_path / "parent", dataclasses.replace(runs.alien().settings, random_steps=160)
    config = runs.alien(mem_budget_bytes=165 * 7056, keep_checkpoint=(44,), freeze_at=None, settings=settings)
    assert runs.start(tmp_path / "log", runs.train, config, parent).join() == 0
    flags = {"five": ("--seed", "5"), "six": ("--seed", "6"), "rate": ("--set", "learning_rate=0.01")}
    ends = {name: _fork(parent, tmp_path / name, "--at", "44", *given) for name, given in flags.items()}
    ends["parent"] = parent
    assert len({_end(run)["agent.safetensors"] for run in ends.values()}) == len(ends)
    actions = {name: _actions(run) for name, run in ends.items()}
    assert len({made[:44].tobytes() for made in actions.values()}) == 1
    assert len({made[44:].tobytes() for made in actions.values()}) == 3
    assert actions["rate"].tobytes() == actions["parent"].tobytes()  # its random streams continue
    again = _fork(parent, tmp_path / "again", "--at", "44", *flags["five"])
    assert _end(again) == _end(ends["five"])


def test_a_fork_with_another_codec_equals_a_run_with_it_from_the_start(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent, straight = _family(tmp_path_factory, runs.alien), tmp_path / "straight"
    fork = _fork(parent, tmp_path / "fork", "--at", str(FREEZE_AT["alien"]), "--latent-codec", "uint4")
    assert runs.start(tmp_path / "log", runs.train, runs.alien(latent_codec="uint4"), straight).join() == 0
    assert _end(fork) == _end(straight)


def _kill_while_publishing(send: Callable[[Any], None]) -> None:
    runs.at_call("seer_runtime.durable:publish_checkpoint", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_killed_fork_leaves_no_run_and_can_be_repeated(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent, fork = _family(tmp_path_factory, runs.alien), tmp_path / "fork"
    words = ("fork", parent, "-o", fork)
    killed = runs.start(tmp_path / "log", runs.command, *words, prepare=_kill_while_publishing)
    assert killed.join() == -signal.SIGKILL
    assert not fork.exists()
    assert _end(_fork(parent, fork)) == _end(parent)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--at", "45"), "--at 45: {run} has no checkpoint of this step, only of 44, 90, 140, 160"),
        (
            ("--at", "-5"),
            "--at -5: {run} has no checkpoint of this step, only of 44, 90, 140, 160; give one of these\n",
        ),
        (("--freeze-at", "100"), "--freeze-at 100: {run}/checkpoints/step_0000000160 is frozen already, since step 90"),
        (("--latent-codec", "uint8"), "--latent-codec uint8: {run}/checkpoints/step_0000000160 is frozen already"),
        (("--at", "44", "--freeze-at", "43"), "--freeze-at 43: the fork begins at step 44"),
        (("--at", "44", "--store", "compact"), "--store: cannot change in a run that has begun"),
        (("--at", "44", "--mem-budget", "250KB"), "--mem-budget 250000: too small for the 44 rows of {run}"),
        (("--at", "44", "--set", "hidden=32"), "its agent has other networks than these settings ask for"),
        (("--at", "44", "--set", "action_repeat=2"), "--set action_repeat: cannot change in a run that has begun"),
        (("--total-timesteps", "150"), "--total-timesteps 150: the fork begins at step 160"),
        (("--at", "44", "--total-timesteps", "80"), "--total-timesteps 80: the freeze is at step 90"),
        (("--at", "44", "--freeze-at", "161"), "--freeze-at 161: the run ends at step 160"),
        (("--at", "44", "--keep-checkpoint", "20"), "--keep-checkpoint 20: the fork begins at step 44"),
        (("--resolution", "42"), "--resolution: cannot change in a run that has begun; `seer-edge fork --help`"),
        (("--encoder", "canonical"), "--encoder: cannot change in a run that has begun"),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint_are_refused_in_one_line(
    flags: tuple[str, ...], message: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parent = _family(tmp_path_factory, runs.alien)
    child = runs.start(tmp_path / "log", runs.command, "fork", parent, "-o", tmp_path / "fork", *flags)
    assert child.join() == 2
    (line,) = child.log.read_text().splitlines(keepends=True)
    assert message.format(run=parent) in line
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    parent = _family(tmp_path_factory, runs.alien)
    child = runs.start(tmp_path / "log", runs.command, "fork", parent, "-o", "/proc/fork")
    assert child.join() == 2
    (line,) = child.log.read_text().splitlines()
    assert "-o /proc/fork: cannot be written (No such file or directory); name another folder" in line
