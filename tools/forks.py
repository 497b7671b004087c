"""Fork a run: copy its newest checkpoint into new runs with another setting or other random streams.

A fork is a run's folder with one checkpoint. `finish_all` resumes forks to their end, each in a separate process.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import BadInputError, FaultError, progress

if TYPE_CHECKING:
    from seer_edge.runs.checkpoint import Saved

POLL_SECONDS = 2.0
EMULATOR_STREAM = "environment.random"
"""Name, in a control task's saved state, of the words of its Mersenne twister."""


def fork(base: Path, target: Path, *, before_freeze: bool = False, **changes: Any) -> None:
    """Create the run `target` from the newest checkpoint of `base`, with `changes` in its configuration.

    A `seed` among the changes restarts all random streams from it. Do nothing where `target` already has a checkpoint,
    which is written last. Raises BadInputError where `base` is not a run, and, with `before_freeze`, where it has
    already frozen or never will.
    """
    from seer_edge import errors
    from seer_edge.runs import checkpoint
    from seer_edge.runs.run_folder import RunFolder
    from seer_runtime import durable

    if any((target / "checkpoints").glob("step_*")):
        return
    try:
        with RunFolder(base).locked():
            saved = checkpoint.newest(base / "checkpoints")
            config = dataclasses.replace(saved.config, **changes)
            if before_freeze and (saved.frozen or config.freeze_at is None):
                raise BadInputError(f"{base}: step {saved.timestep:,} is not before a freeze; stop a run earlier")

            def write(folder: Path) -> None:
                for name in set(saved.stored.manifest["files"]) - {checkpoint.CONFIG, checkpoint.RUN}:
                    shutil.copyfile(saved.path / name, folder / name)
                durable.write_json(folder / checkpoint.CONFIG, config.to_json())
                record = saved.run()
                record["outcome"]["resumed_at"] = []  # the entries belong to `base`
                durable.write_json(folder / checkpoint.RUN, record)
                if "seed" in changes:
                    _reseed(folder, saved, config.seed, config.device)

            durable.make_folder(target)
            run, source = RunFolder(target), RunFolder(base)
            run.write_config(config)
            for table in (source.progress, source.episodes):
                if table.exists():
                    shutil.copyfile(table, target / table.name)
            durable.publish_checkpoint(run.checkpoints, saved.timestep, write)
    except errors.BadInputError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise BadInputError(f"{base}: cannot be forked ({error})") from error


def _reseed(folder: Path, saved: "Saved", seed: int, device: str) -> None:
    """Restart all random streams of the checkpoint being written in `folder`, each from a separate seed."""
    import numpy as np
    import torch

    from seer_edge.agents.agent import GENERATOR
    from seer_edge.runs import checkpoint
    from seer_runtime import durable

    seeds = np.random.SeedSequence((seed, saved.timestep))

    def next_seed() -> int:
        return int(seeds.spawn(1)[0].generate_state(1)[0])

    def restarted(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "bit_generator" in value:
            return np.random.default_rng(next_seed()).bit_generator.state
        return {name: restarted(value[name]) for name in sorted(value)}

    state = restarted(saved.state)
    agent = dict(durable.read_tensors(folder / checkpoint.AGENT))
    agent[GENERATOR] = torch.Generator(device).manual_seed(next_seed()).get_state().numpy()
    durable.write_tensors(folder / checkpoint.AGENT, agent)
    session = dict(durable.read_tensors(folder / checkpoint.SESSION))
    if EMULATOR_STREAM in session:
        _, words, position, *_ = np.random.RandomState(next_seed()).get_state(legacy=True)
        session[EMULATOR_STREAM] = words
        state["environment"] |= {"random_position": position, "random_has_gauss": False, "random_gauss": 0.0}
        durable.write_tensors(folder / checkpoint.SESSION, session)
    durable.write_json(folder / checkpoint.STATE, state)


def finish_all(runs: Sequence[Path], jobs: int = 1, watch: Callable[[Path], object] = lambda run: None) -> None:
    """Resume each of `runs` to its end, `jobs` at a time, with its output in a .log file next to it.

    Call `watch(run)` every two seconds while a run lasts and once after it. Raises FaultError at the end where one has
    failed.
    """
    from seer_edge.runs.run_folder import RunFolder

    waiting = [run for run in runs if not RunFolder(run).is_finished]
    running: dict[Path, subprocess.Popen[bytes]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                progress(run.name)
                running[run] = _resume(run)
            time.sleep(POLL_SECONDS)
            for run, child in list(running.items()):
                ended = child.poll() is not None
                watch(run)
                if ended:
                    del running[run]
                    if child.returncode != 0:
                        failed.append(f"{run} ended with status {child.returncode} (see {_log(run)})")
    finally:
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait()
    if failed:
        raise FaultError(f"{', '.join(failed)}; repeat the command to continue")


def _resume(run: Path) -> "subprocess.Popen[bytes]":
    with _log(run).open("a") as output:
        command = [sys.executable, "-m", "seer_edge", "resume", os.fspath(run)]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _log(run: Path) -> Path:
    return run.parent / f"{run.name}.log"
