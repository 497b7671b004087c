"""Forks: a new run that begins at a checkpoint of another, with other settings for what comes after."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seer_edge.agents import make_agent
from seer_edge.agents.agent import GENERATOR
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.errors import BadInputError
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.snapshots import Snapshots
from seer_edge.training.components import build_replay, check_actions, new_ledger
from seer_edge.training.summary import OBSERVATIONS
from seer_edge.training.tables import copy_tables
from seer_runtime import durable
from seer_runtime.system.state import StateError

EMULATOR_STREAM = "environment.random"
"""Name, in a control task's saved state, of the words of its Mersenne twister."""


def check_fork(plan: BytePlan, saved: Saved) -> None:
    """Load the checkpoint into a throwaway agent and replay of `plan`.

    Raises BadInputError if they do not accept it, or if the budget cannot hold its rows.
    """
    agent = make_agent(plan, seed=0)
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    with checkpoint.reading(saved.path):
        state = saved.agent()
    try:
        agent.restore(state)
    except StateError as error:
        raise BadInputError(
            f"{saved.path}: its agent has other networks than these settings ask for ({error}); leave out the --set of "
            "sizes"
        ) from error
    del agent, state
    replay = build_replay(plan, new_ledger(plan), 0, latents=saved.graph is not None)
    with checkpoint.reading(saved.path):
        dropped = saved.restore_replay(replay)
        check_actions(replay, plan.env.actions)
    if dropped:
        rows = replay.store.rows + dropped
        raise BadInputError(
            f"--mem-budget {plan.config.mem_budget_bytes}: too small for the {rows:,} rows of {saved.path}, of which "
            f"{dropped:,} do not fit; give more ({saved.config.mem_budget_bytes} B is enough), or resume a fork with "
            "less"
        )


def origin_of(run: Path, saved: Saved) -> dict[str, Any]:
    """Return what a fork records of the checkpoint that it begins at."""
    manifest = (saved.path / durable.MANIFEST).read_bytes()
    return {"run": os.fspath(run), "step": saved.timestep, "checkpoint": hashlib.sha256(manifest).hexdigest()}


def write_fork(
    source: RunFolder, saved: Saved, config: TrainConfig, target: Path, *, reseed: bool, refreeze: bool
) -> RunFolder:
    """Create the run `target`, which begins at the checkpoint `saved` of `source` and has the settings `config`.

    With `reseed` all random streams restart from the seed of `config`. With `refreeze` the fork tries the freeze that
    was refused in `source`. The folder appears by one rename, when it is complete. Raises OSError if it cannot be
    written, or if `source` removes its checkpoint meanwhile.
    """
    new = RunFolder(target.parent / f".{target.name}.fork")
    durable.make_folder(target.parent)
    shutil.rmtree(new.path, ignore_errors=True)  # of a fork that was killed
    try:
        durable.make_folder(new.path)
        record = _record(saved, config, _copy_best(source, new, saved), refreeze=refreeze)
        copy_tables(source, new, int(record["logged_at"]), saved.timestep)
        if config.analyze:
            Snapshots(source.analysis).copy_to(Snapshots(new.analysis), saved.timestep)

        def write(folder: Path) -> None:
            changed = {checkpoint.CONFIG, checkpoint.RUN}
            _copy_files(saved.stored, folder, set(saved.stored.manifest["files"]) - changed)
            durable.write_json(folder / checkpoint.CONFIG, config.to_json())
            durable.write_json(folder / checkpoint.RUN, record)
            state = _state(saved, config)
            if reseed:
                _reseed(folder, state, saved.timestep, config)
            elif state != saved.state:
                durable.write_json(folder / checkpoint.STATE, state)

        durable.publish_checkpoint(new.checkpoints, saved.timestep, write)
        if saved.graph is not None:
            durable.write_atomic(new.encoder, saved.graph)
        new.write_config(config)
        for leftover in durable.leftovers(RunFolder(target).config) if target.is_dir() else []:
            durable.remove(leftover)  # of a run that was killed while it was created
        durable.rename_folder(new.path, target)
    except BaseException:
        shutil.rmtree(new.path, ignore_errors=True)
        raise
    return RunFolder(target)


def _record(saved: Saved, config: TrainConfig, has_best: bool, *, refreeze: bool) -> dict[str, Any]:
    """Return the `run.json` of the fork: the parent's, without what holds for the parent only."""
    with checkpoint.reading(saved.path):
        record = saved.run()
        outcome = record["outcome"]
        outcome["resumed_at"] = []
        if not has_best:
            outcome["best"] = None
        if config.mem_budget_bytes != saved.config.mem_budget_bytes:
            outcome["peaks"].pop(OBSERVATIONS, None)
        if refreeze:
            outcome["freeze_refused"] = None
    return record


def _copy_best(source: RunFolder, new: RunFolder, saved: Saved) -> bool:
    """Copy the best policy, if it was kept and is not later than the checkpoint. Return whether the record stays."""
    if not saved.config.keep_best:
        return True
    with contextlib.suppress(durable.NoSoundCheckpointError, durable.CorruptFileError, OSError):
        best = durable.newest_checkpoint(source.best)
        timestep = best.manifest["timestep"]
        if timestep <= saved.timestep:
            durable.publish_checkpoint(
                new.best, timestep, lambda folder: _copy_files(best, folder, best.manifest["files"])
            )
            return True
    return False


def _copy_files(stored: durable.Checkpoint, folder: Path, names: Collection[str]) -> None:
    for name in names:
        shutil.copyfile(stored.path / name, folder / name)


def _state(saved: Saved, config: TrainConfig) -> dict[str, Any]:
    """Return the `state.json` of the parent, without what does not fit the fork."""
    state, before = dict(saved.state), saved.config
    if config.settings.batch_size != before.settings.batch_size:
        state[checkpoint.PENDING] = None
    if config.freeze_window != before.freeze_window and checkpoint.WATCH in state:
        state[checkpoint.WATCH] = None  # its comparisons are over windows of another length
    return state


def _reseed(folder: Path, state: dict[str, Any], timestep: int, config: TrainConfig) -> None:
    """Restart all random streams of the checkpoint being written in `folder`, each from a separate seed."""
    seeds = np.random.SeedSequence((config.seed, timestep))

    def next_seed() -> int:
        return int(seeds.spawn(1)[0].generate_state(1)[0])

    def restarted(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "bit_generator" in value:
            return np.random.default_rng(next_seed()).bit_generator.state
        return {name: restarted(value[name]) for name in sorted(value)}

    state = restarted(state)
    agent = dict(durable.read_tensors(folder / checkpoint.AGENT))
    agent[GENERATOR] = torch.Generator(config.device).manual_seed(next_seed()).get_state().numpy()
    durable.write_tensors(folder / checkpoint.AGENT, agent)
    session = dict(durable.read_tensors(folder / checkpoint.SESSION))
    if EMULATOR_STREAM in session:
        fresh: Any = np.random.RandomState(next_seed()).get_state(legacy=False)
        session[EMULATOR_STREAM] = fresh["state"]["key"]
        state["environment"] |= {
            "random_position": int(fresh["state"]["pos"]),
            "random_has_gauss": False,
            "random_gauss": 0.0,
        }
        durable.write_tensors(folder / checkpoint.SESSION, session)
    durable.write_json(folder / checkpoint.STATE, state)
