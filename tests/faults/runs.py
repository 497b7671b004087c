"""Short real runs in separate processes, into which tests inject faults.

A server process that has imported everything forks them, so that they start at once.
"""

import functools
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest

import seer_edge.agents.curl_sac
import seer_edge.agents.rainbow
import seer_edge.envs.atari
import seer_edge.envs.games
import seer_edge.training.run
from seer_edge.api import planning
from seer_edge.cli import commands as cli
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import make_plan
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.envs import make_env
from seer_edge.errors import EXIT_UNSAFE, EnvironmentFailedError, RunStoppedError
from seer_edge.machine.host import prepare_compute
from seer_edge.runs import checkpoint, run_folder
from seer_runtime import durable

EXACT = (checkpoint.AGENT, checkpoint.REPLAY, checkpoint.SESSION, checkpoint.STATE, checkpoint.ENCODER)
"""The files of a checkpoint that are identical in identical runs."""

GAME_STEPS = 40
"""Steps after which an evaluation's episode is cut off, so that a run takes seconds."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__, "onnx", "onnxruntime", "cv2", "tests.faults.last_import"])


def alien(**changes: Any) -> TrainConfig:
    """Return a run of Alien with 160 steps: learning from step 20, a ring of 70 rows that wraps, a freeze at 90."""
    settings = RainbowSettings(
        batch_size=8, n_step=3, hidden=16, learning_starts=20, target_update_steps=30, learning_rate=5e-4
    )
    given: dict[str, Any] = {
        "env": "ALE/Alien-v5",
        "env_name": "Alien",
        "preset": "Alien",
        "mem_budget_bytes": 70 * 7056,
        "total_timesteps": 160,
        "freeze_at": 90,
        "freeze_reason": "test",
        "settings": settings,
        "eval_every": 100,
        "eval_episodes": 1,
        "log_every": 20,
        "checkpoint_every_steps": 20,
        "checkpoint_every_seconds": None,
    }
    return TrainConfig(**{**given, **changes})


def compact(**changes: Any) -> TrainConfig:
    """Return the run of `alien`, with compressed blocks in the smallest arena that a batch allows."""
    given = {"store": "compact", "latent_codec": "uint8", "mem_budget_bytes": 24 * 7056}
    return alien(**{**given, **changes})


def cartpole(**changes: Any) -> TrainConfig:
    """Return a run of cartpole-swingup at 25x25 with 60 steps in five episodes, and a freeze at 36."""
    settings = SacSettings(batch_size=8, hidden=16, features=7, learning_starts=12, random_steps=8)
    given: dict[str, Any] = {
        "env": "dm_control/cartpole-swingup-v0",
        "env_name": "cartpole-swingup",
        "preset": "cartpole-swingup",
        "algo": "curl-sac",
        "encoder": "sac-ae",
        "mem_budget_bytes": 30 * 3 * 25 * 25,
        "total_timesteps": 60,
        "freeze_at": 36,
        "freeze_reason": "test",
        "settings": settings,
        "resolution": 25,
        "action_repeat": 84,
        "augmentations": 3,
        "eval_every": 40,
        "eval_episodes": 1,
        "log_every": 10,
        "checkpoint_every_steps": 10,
        "checkpoint_every_seconds": None,
    }
    return TrainConfig(**{**given, **changes})


# --- in this process ---------------------------------------------------------------------------------------


def train(config: TrainConfig, path: Path) -> int:
    """Train with a configuration, as the command does; return the exit status."""
    prepare_compute(config)
    env = make_env(config.env, config.env_options, seed=0, training=True)
    env.close()
    plan = make_plan(config, env.spec)
    folder = run_folder.create(path, config)
    try:
        with folder.locked():
            return seer_edge.training.run.train(plan, folder)
    except (RunStoppedError, EnvironmentFailedError) as error:
        print(f"seer-edge train: {error}", file=sys.stderr)
        return EXIT_UNSAFE


def train_command(config: TrainConfig, path: Path) -> int:
    """Run `seer-edge train` with a configuration that flags cannot express; return the exit status."""
    env = make_env(config.env, config.env_options, seed=0, training=True)
    env.close()
    planning.plan_of = lambda request: make_plan(config, env.spec)
    return command("train", "--env", config.env_name, "--run-dir", path)


def command(*words: str | Path) -> int:
    """Run `seer-edge` with `words`; return the exit status."""
    sys.argv = ["seer-edge", *map(str, words)]
    return cli.main()


# --- in a separate process ---------------------------------------------------------------------------------


@dataclass
class Child:
    """A running process. It sends messages through `pipe` and writes its output to `log`."""

    process: BaseProcess
    pipe: Connection
    log: Path

    def messages(self) -> list[Any]:
        """Return all messages that have arrived since the last call."""
        received = []
        try:
            while self.pipe.poll():
                received.append(self.pipe.recv())
        except EOFError:
            pass
        return received

    def join(self, timeout_seconds: float = 600) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        self.process.join(timeout_seconds)
        assert self.process.exitcode is not None, f"still running: {self.log.read_text()}"
        return self.process.exitcode

    def kill(self) -> int:
        self.process.kill()
        return self.join()


Prepare = Callable[[Callable[[Any], None]], None]
"""Called in the child before its work, to inject the fault. Its argument sends a message to the parent."""


def start(log: Path, work: Callable[..., int], *args: Any, prepare: Prepare | None = None) -> Child:
    """Run `work(*args)` in a separate process, whose output is appended to `log`."""
    receiver, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_child, args=(log, sender, prepare, work, args))
    process.start()
    sender.close()
    return Child(process, receiver, log)


def _child(log: Path, pipe: Connection, prepare: Prepare | None, work: Callable[..., int], args: Any) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    seer_edge.envs.games.EPISODE_STEPS_MAX = GAME_STEPS
    if prepare is not None:
        prepare(pipe.send)
    status = work(*args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def become_child(log: Path, prepare: Prepare, work: Callable[..., int], *args: Any) -> NoReturn:
    """Act as a process of `start`, and exit. For a process that was forked in another way."""
    try:
        _child(log, SERVER.Pipe()[1], prepare, work, args)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def undisturbed(folders: pytest.TempPathFactory, build: Callable[[], TrainConfig] = alien) -> Path:
    """Return the run of `build()` without any fault. It runs once for each test session."""
    path = folders.getbasetemp() / build.__name__ / "run"
    if not path.exists():
        path.parent.mkdir()
        assert start(path.parent / "log", train, build(), path).join() == 0
    return path


def at_call(place: str, number: int, act: Callable[[], object]) -> None:
    """In a child, call `act()` just before the `number`-th call of `place`.

    `place` is `module:function` or `module:Class.method`. The `number`-th call of `Session.step` makes step `number`.
    """
    module, _, dotted = place.partition(":")
    *owners, name = dotted.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, name), itertools.count(1)

    def acting(*args: Any, **given: Any) -> Any:
        if next(calls) == number:
            act()
        return function(*args, **given)

    setattr(owner, name, acting)


def around_saves(
    before: Callable[[int], object] = lambda step: None, after: Callable[[int, Path], object] = lambda step, path: None
) -> None:
    """In a child, call `before` with the step of each checkpoint, and `after` also with its folder once it is saved."""
    save = checkpoint.save

    def saving(snapshot: checkpoint.Snapshot, *args: Any, **given: Any) -> Path:
        before(snapshot.timestep)
        path = save(snapshot, *args, **given)
        after(snapshot.timestep, path)
        return path

    checkpoint.save = saving


# --- comparisons -------------------------------------------------------------------------------------------


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256, from the manifest, of each file that is identical in identical runs."""
    files = durable.verify_checkpoint(folder)["files"]
    return {name: files[name]["sha256"] for name in EXACT if name in files}


def results(path: Path) -> dict[str, Any]:
    """Return the results of a run except times, memory and the number of stops."""
    summary = json.loads((path / "summary.json").read_text())
    rows = [line.split(",") for line in (path / "progress.csv").read_text().splitlines()]
    measured = ("time/fps", "time/time_elapsed", "time/cpu_seconds", "memory/rss_bytes", "memory/anon_bytes")
    timed = {rows[0].index(name) for name in measured}
    return {
        "episodes": (path / "episodes.csv").read_text(),
        "rows": [[cell for column, cell in enumerate(row) if column not in timed] for row in rows],
        "encoder": [hashlib.sha256(file.read_bytes()).hexdigest() for file in path.glob("encoder.onnx")],
        "freeze": (summary["freeze"]["timestep"], summary["freeze"]["rows"]),
        **{name: summary[name] for name in ("timesteps", "status", "replay", "eval", "flops")},
    }


def newest(run: Path) -> Path:
    """Return the folder of the newest checkpoint by name, sound or not."""
    return max((run / "checkpoints").glob("step_*"))


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.002)
