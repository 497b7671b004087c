"""Shorter runs: every number of steps of a sweep times a factor."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.sweeps.cost import Kind, kind_of
from seer_edge.sweeps.spec import Job

EVALUATIONS_MIN = 5
"""Evaluations of a run that a scale leaves, if it has so many."""


def scaled(jobs: Sequence[Job], plans: Mapping[Kind, BytePlan], scale: float) -> list[Job]:
    """Return the jobs with `scale` times the steps that `plans` has for them.

    Steps of the run, the freeze, evaluations, random play, the start of learning, and the beginnings of forks are
    multiplied, and so are the episodes of an evaluation. An evaluation has at least one episode. Where that is more
    than its share, a run has fewer evaluations, but at least five. A budget stays, unless it holds a frame for each
    step of the run. Then it shrinks too, and still holds the whole run.
    """
    if scale == 1:
        return list(jobs)
    found: dict[str, Job] = {}
    for job in jobs:  # each comes after those that it needs
        plan = plans[kind_of(job)]
        options = _of_fork(job, plan, scale) if job.parent is not None else _of_run(job, plan, scale)
        if "keep_checkpoint" in options:
            options["keep_checkpoint"] = [times(step, scale) for step in options["keep_checkpoint"]]
        found[job.name] = dataclasses.replace(
            job,
            options=options,
            parent=None if job.parent is None else found[job.parent.name],
            source=None if job.source is None else found[job.source.name],
            at=None if job.at is None else times(job.at, scale),
            keeps=tuple(times(step, scale) for step in job.keeps),
        )
    return list(found.values())


def times(count: int, scale: float) -> int:
    """Return `scale` times `count`, rounded; at least 1."""
    return max(1, round(scale * count))


def _of_run(job: Job, plan: BytePlan, scale: float) -> dict[str, Any]:
    config = plan.config
    options = {**job.options, "total_timesteps": times(config.total_timesteps, scale)}
    if job.source is None:
        options["freeze_at"] = "never" if config.freeze_at is None else times(config.freeze_at, scale)
    if holds_run(plan):
        options["mem_budget"] = _budget(plan, scale)
    options["eval_episodes"] = times(config.eval_episodes, scale)
    if config.eval_every is not None:
        share = scale * config.eval_episodes
        rarer = round(scale * config.eval_every * max(1, options["eval_episodes"] / share))
        fewest = options["total_timesteps"] // EVALUATIONS_MIN
        options["eval_every"] = max(times(config.eval_every, scale), min(rarer, fewest))
    return {**options, "set": {**options.get("set", {}), **_steps_of_start(config, scale)}}


def _of_fork(job: Job, plan: BytePlan, scale: float) -> dict[str, Any]:
    """Return the options of a fork, which has from its parent what it does not set itself."""
    scaled_names = ("total_timesteps", "freeze_at", "eval_every", "eval_episodes")
    options: dict[str, Any] = {
        name: times(value, scale) if name in scaled_names and isinstance(value, int) else value
        for name, value in job.options.items()
    }
    if "mem_budget" in options and holds_run(plan):
        options["mem_budget"] = _budget(plan, scale)
    if "set" in options:
        own = {name.replace("-", "_"): value for name, value in options["set"].items()}
        steps = _steps_of_start(plan.config, scale)
        options["set"] = {name: steps.get(name, value) for name, value in own.items()}
    return options


def _steps_of_start(config: TrainConfig, scale: float) -> dict[str, int]:
    """Return the hyperparameters that are steps at the start of a run."""
    settings = config.settings
    return {
        "learning_starts": max(_window_steps(config), round(scale * settings.learning_starts)),
        "random_steps": round(scale * settings.random_steps),
    }


def _budget(plan: BytePlan, scale: float) -> int:
    """Return `scale` times the budget, or what a batch needs."""
    settings = plan.config.settings
    row_bytes = max(plan.frame_row_bytes, plan.latent_row_bytes if plan.latent_replay else 0)
    batch_rows = settings.batch_size + settings.n_step + settings.stack
    return max(round(scale * plan.config.mem_budget_bytes), batch_rows * row_bytes)


def holds_run(plan: BytePlan) -> bool:
    """Return whether the budget holds a frame for each step of the run."""
    return plan.frame_capacity >= plan.config.total_timesteps


def _window_steps(config: TrainConfig) -> int:
    """Return the steps that fill one window. Batches are sampled with replacement, so one is enough."""
    return min(config.settings.learning_starts, config.settings.n_step + config.settings.stack)
