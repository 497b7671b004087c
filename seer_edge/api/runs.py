"""Planning, training and resuming runs."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from seer_edge.api import planning
from seer_edge.api.results import RunResult
from seer_edge.config.config import TrainConfig, keep_schedules
from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import check_rate_given
from seer_edge.config.request import ResumeOptions, ResumeRequest, RunOptions, RunRequest
from seer_edge.envs.guarded import closing_idle
from seer_edge.errors import BadInputError
from seer_edge.machine.ceiling import check_memory
from seer_edge.machine.devices import check_device
from seer_edge.runs import checkpoint, run_folder
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.transfer import Imported
from seer_edge.validation import path_of
from seer_runtime import durable
from seer_runtime.system.memory import MemoryLimits, memory_limits

if TYPE_CHECKING:
    from seer_edge.training.run import Run

LOG = logging.getLogger(__name__)
OUTPUT = logging.getLogger("seer_edge.output")
"""Takes the plan and the folder of a run. The command line prints them to stdout, and all other records to stderr."""

ANY_MACHINE = MemoryLimits(2**62, 2**62)
"""Limits of a plan for another machine: no memory is too large."""

OnProgress = Callable[[Mapping[str, float]], object]
"""Receives one row of `progress.csv`, by column name, at each log interval."""


@closing_idle()
def plan(env: str, **options: Unpack[RunOptions]) -> BytePlan:
    """Compute the bytes of a run in memory and on disk, without starting it.

    Args:
        env: an Atari game, a control task, a Gymnasium id or "module:Id", as `--env` takes it.
        **options: the flags of `seer-edge plan` as keywords; see `RunOptions` for units.

    Returns:
        The plan. Sizes are bytes, capacities are rows. `render()` returns it as a table.

    Raises:
        BadInputError: an option cannot be used, or the budget cannot hold one batch.

    Examples:
        >>> import seer_edge
        >>> plan = seer_edge.plan("camera_env:Camera-v0", mem_budget="0.02GB", total_timesteps=20_000)
        >>> plan.config.mem_budget_bytes
        20000000
        >>> plan.frame_capacity * plan.frame_row_bytes <= 20_000_000
        True
        >>> print(plan.render().splitlines()[0])
        byte plan

    """
    request = RunRequest.of(env=env, **options)
    planned = planning.plan_of(request)
    check_device(planned.config.device)
    planned, _ = planning.with_import(planned, request.take, adopt_codec=request.latent_codec is None)
    check_memory(planned, ANY_MACHINE)
    return planned


@closing_idle()
def plan_of_run(run: str | os.PathLike[str]) -> BytePlan:
    """Compute the bytes of a run that exists, in memory and on disk, without opening its environment.

    Args:
        run: the folder of a run.

    Returns:
        The plan of its newest undamaged checkpoint.

    Raises:
        BadInputError: the folder is not a run, or its checkpoints cannot be used.

    Examples:
        >>> import seer_edge
        >>> seer_edge.plan_of_run("runs/camera").config.total_timesteps
        140

    """
    folder = run_folder.open_run(path_of("RUN", run))
    if folder.has_no_progress:
        return planning.recorded_plan(folder.read_config(), folder, frozen=False)
    saved = checkpoint.newest(folder.checkpoints)
    return planning.recorded_plan(saved.config, folder, frozen=saved.frozen)


@closing_idle()
def train(
    env: str,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    progress_bar: bool = False,
    **options: Unpack[RunOptions],
) -> RunResult:
    """Train an agent inside a byte budget. Freeze its encoder on the way, and evaluate it at the end.

    SIGINT, SIGTERM and SIGHUP end the run after the current step with a checkpoint, if this is the main thread. An
    environment that does not answer within `env_timeout` ends the process with status 75 after a checkpoint, because
    a thread that hangs cannot be interrupted. Progress is logged to the logger "seer_edge".

    Args:
        env: an Atari game, a control task, a Gymnasium id or "module:Id", as `--env` takes it.
        run_dir: new folder for the run. The default is runs/ENV__ALGO__SEED__TIME.
        on_progress: called with each row of `progress.csv`, a mapping from column name to number. An exception that it
            raises ends the run; the last checkpoint stays.
        progress_bar: show a bar on stderr, if that is a terminal.
        **options: the flags of `seer-edge train` as keywords; see `RunOptions` for units.

    Returns:
        The folder of the run and its summary.

    Raises:
        BadInputError: an option cannot be used. Nothing was written.
        EnvironmentFailedError: the environment failed before the first step.
        RunStoppedError: the run stopped to stay safe. `resume` continues it from its last checkpoint.

    Examples:
        >>> import seer_edge
        >>> steps = []
        >>> result = seer_edge.train(
        ...     "camera_env:Camera-v0",
        ...     mem_budget="4MB",
        ...     total_timesteps=120,
        ...     eval_episodes=1,
        ...     run_dir="runs/camera",
        ...     set={"batch_size": 8, "learning_starts": 40},
        ...     on_progress=lambda row: steps.append(row["time/total_timesteps"]),
        ... )
        >>> result.status, result.timestep, steps[-1]
        ('finished', 120, 120)
        >>> sorted(file.name for file in result.folder.iterdir() if file.suffix == ".json")
        ['config.json', 'summary.json']

    """
    if on_progress is not None and not callable(on_progress):
        raise BadInputError(f"on_progress {on_progress!r}: give a function that takes a row, or None")
    request = RunRequest.of(env=env, **options)
    return train_request(request, run_dir, {"on_progress": on_progress, "progress_bar": progress_bar})


def train_request(
    request: RunRequest, run_dir: str | os.PathLike[str] | None, supervision: Mapping[str, Any]
) -> RunResult:
    """Train as `train` does. `supervision` has the fields of `Supervision`, which needs torch."""
    planned, imported = planning.with_import(
        planning.plan_of(request), request.take, adopt_codec=request.latent_codec is None
    )
    check_memory(planned, memory_limits())
    run_folder.check(run_folder.default_path(planned.config) if run_dir is None else path_of("--run-dir", run_dir))
    planning.check_addresses(planned.config)
    planning.prepare_learner(planned)
    if imported is not None:
        from seer_edge.training.trial import check_import

        check_import(planned, imported)
    folder = (
        run_folder.create_default(planned.config)
        if run_dir is None
        else run_folder.create(Path(run_dir), planned.config)
    )
    with folder.locked():
        _announce(planned, f"run folder: {folder.path}", folder.path)
        return _begin(planned, folder, imported, supervision)


@closing_idle()
def resume(
    run: str | os.PathLike[str],
    *,
    on_progress: OnProgress | None = None,
    progress_bar: bool = False,
    **options: Unpack[ResumeOptions],
) -> RunResult:
    """Continue a run from its newest undamaged checkpoint, as if it had not stopped.

    A run that has finished is returned as it is, unless the options leave something to do, as a larger
    `total_timesteps` does. Signals and an environment that hangs are handled as by `train`.

    Args:
        run: the folder of the run.
        on_progress: called with each row of `progress.csv`.
        progress_bar: show a bar on stderr, if that is a terminal.
        **options: the flags of `seer-edge resume` as keywords; see `ResumeOptions` for units. None keeps what the run
            has.

    Returns:
        The folder of the run and its summary.

    Raises:
        BadInputError: the folder is not a run, its checkpoints cannot be used, or an option does not fit it.
        EnvironmentFailedError: the environment failed before the first step.
        RunStoppedError: the run stopped to stay safe. `resume` continues it from its last checkpoint.

    Examples:
        >>> import seer_edge
        >>> seer_edge.resume("runs/camera", total_timesteps=140).timestep
        140

    """
    changes = ResumeRequest.of(**options).config_fields()
    return resume_with(run, changes, {"on_progress": on_progress, "progress_bar": progress_bar})


def resume_with(
    run: str | os.PathLike[str],
    changes: dict[str, Any],
    supervision: Mapping[str, Any],
    check: Callable[[TrainConfig], None] = lambda _: None,
) -> RunResult:
    """Continue a run with other fields of its configuration. `supervision` is as for `train_request`.

    `check` is called with the saved configuration before the environment is built, and raises BadInputError.
    """
    folder = run_folder.open_run(path_of("RUN", run))
    with folder.locked():
        return _resume(folder, changes, supervision, check)


def _resume(
    folder: RunFolder,
    changes: dict[str, Any],
    supervision: Mapping[str, Any],
    check: Callable[[TrainConfig], None],
) -> RunResult:
    if folder.has_no_progress:
        check(folder.read_config())
        return _begin_after_all(folder, changes, supervision)
    saved = checkpoint.newest(folder.checkpoints)
    check(saved.config)
    for line in saved.skipped:
        LOG.warning(line)
    _check_length(saved, changes.get("total_timesteps"))
    kept = {"keep_checkpoint": _kept(saved, changes["keep_checkpoint"])} if "keep_checkpoint" in changes else {}
    config = keep_schedules(_changed(saved.config, {**changes, **kept}), saved.config)
    planned = planning.plan_again(config, folder, frozen=saved.frozen)
    check_memory(planned, memory_limits(), resumed=True)
    planning.check_continued(planned, saved)
    folder.check_places()
    planning.check_addresses(planned.config)
    planning.prepare_learner(planned)
    if saved.is_complete(saved.config) and saved.is_complete(config) and folder.is_finished:
        for line in folder.repair(saved.config, saved.graph):
            LOG.warning(line)
        unused = "; the flags change nothing" if changes else ""
        OUTPUT.info(f"{folder.path}: finished at step {saved.timestep:,}; {saved.path.name} is undamaged{unused}")
        return _result(folder, 0)
    from seer_edge.training.run import Supervision
    from seer_edge.training.run import resume as resume_run

    _announce(planned, f"run folder: {folder.path}", folder.path)
    status = resume_run(planned, folder, saved, Supervision(**supervision), _kind_of_run(planned))
    return _result(folder, status)


def _kind_of_run(planned: BytePlan) -> "type[Run[Any]]":
    """Return what executes a run: with --hz, in real time."""
    if planned.config.hz is None:
        from seer_edge.training.run import Run

        return Run
    from seer_edge.realtime.run import RealTimeRun

    return RealTimeRun


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the settings with changes. Raises BadInputError."""
    changed = dataclasses.replace(config, **changes)
    check_rate_given(changed.hz, changes)
    return changed


def _kept(saved: Saved, steps: Sequence[int]) -> tuple[int, ...]:
    """Return the steps whose checkpoints are kept: `steps` and those that are kept already.

    Raises BadInputError if a checkpoint is asked for that was not kept and cannot be written any more.
    """
    before = {step for step in saved.config.keep_checkpoint if step <= saved.timestep}
    for step in steps:
        if step < saved.timestep and step not in before:
            raise BadInputError(f"--keep-checkpoint {step}: the run is at step {saved.timestep}; give that or more")
    return tuple(sorted({*before, *steps}))


def _check_length(saved: Saved, total_timesteps: int | None) -> None:
    """Raise BadInputError if the run cannot end at `total_timesteps`."""
    if total_timesteps is None:
        return
    if total_timesteps < saved.timestep:
        raise BadInputError(
            f"--total-timesteps {total_timesteps}: the run is at step {saved.timestep} already; give more"
        )
    freeze_at = saved.config.freeze_at
    if freeze_at is not None and total_timesteps < freeze_at:
        latest = f"the freeze is at step {freeze_at}" + " at the latest" * (saved.config.freeze_window is not None)
        raise BadInputError(f"--total-timesteps {total_timesteps}: {latest}; give that or more")


def _begin_after_all(folder: RunFolder, changes: dict[str, Any], supervision: Mapping[str, Any]) -> RunResult:
    """Start a run that ended before its first checkpoint. It has nothing to lose."""
    config = _changed(folder.read_config(), changes)
    planned = planning.plan_again(config, folder, frozen=False)
    # The plan in the folder is already that of a run with its import.
    _, imported = planning.with_import(planned, config.take)
    check_memory(planned, memory_limits())
    folder.check_places()
    planning.check_addresses(planned.config)
    planning.prepare_learner(planned)
    _announce(planned, f"run folder: {folder.path}; it has no checkpoint yet and starts at step 0", folder.path)
    folder.write_config(config)
    return _begin(planned, folder, imported, supervision)


def _begin(
    planned: BytePlan,
    folder: RunFolder,
    imported: Imported | None,
    supervision: Mapping[str, Any],
) -> RunResult:
    try:
        from seer_edge.training import run

        status = run.train(planned, folder, imported, run.Supervision(**supervision), _kind_of_run(planned))
        return _result(folder, status)
    except KeyboardInterrupt:
        if folder.has_no_progress:
            LOG.warning(f"stopped before the first checkpoint; start it again with: seer-edge resume {folder.path}")
        raise


def _announce(planned: BytePlan, line: str, path: Path) -> None:
    OUTPUT.info(planned.render(memory_limits()))
    planning.warn_of_disk(path, planned)
    OUTPUT.info(line)


def _result(folder: RunFolder, status: int) -> RunResult:
    """`status` is 0, or 128 and the number of the signal that stopped the run."""
    return RunResult(folder.path, durable.read_json(folder.summary), status - 128 if status else None)
