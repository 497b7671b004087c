"""Forks: new runs that begin at a checkpoint of another."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, Unpack

from seer_edge.api import planning
from seer_edge.api.results import ForkResult
from seer_edge.config.config import TrainConfig, keep_schedules
from seer_edge.config.freeze_step import given_freeze
from seer_edge.config.hyperparameters import override_settings
from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import check_rate_given, limits_asked
from seer_edge.config.request import ForkOptions, ForkRequest, flag_of
from seer_edge.config.values import AUTO, NEVER
from seer_edge.envs.safety import Safety, limits_of
from seer_edge.errors import BadInputError
from seer_edge.runs import checkpoint, run_folder
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.validation import path_of

_READ_ATTEMPTS = 3
_FIXED_BY_FREEZE = ("freeze_at", "freeze_layers", "latent_codec", "augmentations")


@dataclasses.dataclass(frozen=True)
class Beginning:
    """A checkpoint at which a fork begins.

    Attributes:
        name: what messages call it.
        config: the settings of the parent.
        timestep: the agent step.
        frozen_at: the agent step at which the encoder was frozen, 0 if it was imported; None if it is not.

    """

    name: str
    config: TrainConfig
    timestep: int
    frozen_at: int | None


def fork(run: str | os.PathLike[str], output: str | os.PathLike[str], **options: Unpack[ForkOptions]) -> ForkResult:
    """Begin a new run at a checkpoint of another, with other settings from there.

    The new run has everything up to that step: networks, replay, random streams, tables. `resume` continues it. A fork
    without options ends as its parent does, bit for bit, under the conditions of `resume`. With `seed` all random
    streams restart. The steps of `keep_checkpoint` are not those of the parent. `config.json` and `summary.json` record
    the origin.

    Args:
        run: the folder of the parent, which may still be training.
        output: new folder.
        **options: the flags of `seer-edge fork` as keywords; see `ForkOptions` for units. None keeps what the parent
            has.

    Returns:
        The folder, the step at which it begins, and its plan.

    Raises:
        BadInputError: there is no such checkpoint, or an option cannot change after it. Nothing was written.

    Examples:
        >>> import seer_edge
        >>> forked = seer_edge.fork("runs/camera", "runs/longer", total_timesteps=150, seed=1)
        >>> forked.timestep
        140
        >>> seer_edge.resume(forked.folder).timestep
        150

    """
    request = ForkRequest.of(**options)
    parent, target = run_folder.open_run(path_of("RUN", run)), path_of("-o", output)
    run_folder.check(target, "-o")
    for attempt in range(_READ_ATTEMPTS):
        saved = checkpoint.newest(parent.checkpoints, at=request.at)
        frozen_at = (saved.freeze_step or 0) if saved.frozen else None
        config = config_of_fork(Beginning(str(saved.path), saved.config, saved.timestep, frozen_at), request)
        planned = planning.recorded_plan(config, parent, frozen=saved.frozen)
        planning.check_continued(planned, saved)
        _check_limits(planned)
        planning.prepare_learner(planned)
        try:
            return _write(planned, saved, parent, target, Path(run), request)
        except FileNotFoundError as error:
            missing = parent.path if error.filename is None else Path(error.filename)
            if not missing.is_relative_to(parent.path):
                raise BadInputError(
                    f"-o {target}: cannot be written ({error.strerror}); name another folder"
                ) from error
            # A parent that is training has removed the checkpoint.
            if attempt + 1 == _READ_ATTEMPTS:
                raise BadInputError(
                    f"{parent.path}: its checkpoints are removed while they are read; wait, or fork one that "
                    "--keep-checkpoint keeps"
                ) from error
            time.sleep(0.1)
        except OSError as error:
            raise BadInputError(f"-o {target}: cannot be written ({error}); name another folder") from error
    raise AssertionError("the last attempt returns or raises")


def _write(
    planned: BytePlan, saved: Saved, parent: RunFolder, target: Path, run: Path, request: ForkRequest
) -> ForkResult:
    """Write the fork of `saved` to `target`. `run` is the parent as the user named it.

    Raises OSError and BadInputError.
    """
    from seer_edge.training.fork import check_fork, origin_of, write_fork

    check_fork(planned, saved)
    config = dataclasses.replace(planned.config, origin=origin_of(run, saved))
    reseed, refreeze = request.seed is not None, bool(_freeze_options(request))
    folder = write_fork(parent, saved, config, target, reseed=reseed, refreeze=refreeze)
    return ForkResult(folder.path, saved.timestep, dataclasses.replace(planned, config=config))


def config_of_fork(begin: Beginning, request: ForkRequest) -> TrainConfig:
    """Return the settings of the fork. Raises BadInputError for one that cannot change after the checkpoint."""
    parent, changes = begin.config, request.fork_fields()
    if request.freeze_at is not None:
        changes |= given_freeze(request.freeze_at, request.total_timesteps or parent.total_timesteps)
        if request.freeze_at == NEVER and request.freeze_layers is None:
            changes["freeze_layers"] = None  # of the parent's freeze
    _check_frozen(begin, request, changes)
    _check_steps(begin, request, changes)
    if request.set:
        for key, _ in request.set:
            if key.replace("-", "_") in parent.settings.INITIAL:
                raise BadInputError(f"--set {key}: is for new networks, and a fork has its parent's; leave it out")
        settings, lines = override_settings(parent.algo, parent.settings, dict(request.set))
        again = {line.partition("=")[0] for line in lines}
        kept = tuple(line for line in parent.overrides if line.partition("=")[0] not in again)
        changes |= {"settings": settings, "overrides": (*kept, *lines)}
    changes |= {"keep_checkpoint": (), "origin": None, **request.config_fields()}
    for step in changes["keep_checkpoint"]:
        if step < begin.timestep:
            raise BadInputError(
                f"--keep-checkpoint {step}: the fork begins at step {begin.timestep}; give that or more"
            )
    config = keep_schedules(dataclasses.replace(parent, **changes), parent)
    check_rate_given(config.hz, request.config_fields())
    return config


def _check_frozen(begin: Beginning, request: ForkRequest, changes: dict[str, Any]) -> None:
    """Raise BadInputError if something of the freeze changes that is already done."""
    before = begin.frozen_at
    if before is None:
        return
    for name in _FIXED_BY_FREEZE:
        if name in changes and changes[name] != getattr(begin.config, name):
            value = getattr(request, name)
            hint = "start a new run with train" if before == 0 else f"give --at with a step up to {before}"
            raise BadInputError(
                f"{flag_of(name)} {value}: {begin.name} is frozen already, since step {before}; leave it out, or {hint}"
            )


def _freeze_options(request: ForkRequest) -> list[str]:
    """Return the given options of a freeze."""
    return [name for name in _FIXED_BY_FREEZE if getattr(request, name) is not None]


def _check_limits(planned: BytePlan) -> None:
    """Raise BadInputError if the limits of --action-limit and --slew-rate do not fit the actions.

    The limits of the environment itself are compared when the fork is resumed, because `fork` does not open it.
    """
    asked = limits_asked(planned.config)
    if asked is not None:
        limits_of(planned.env, Safety(), asked)


def _check_steps(begin: Beginning, request: ForkRequest, changes: dict[str, Any]) -> None:
    """Raise BadInputError if a step of the new settings is before the checkpoint."""
    freeze_at, total = changes.get("freeze_at"), request.total_timesteps
    if freeze_at is not None and begin.frozen_at is None and freeze_at < begin.timestep:
        latest = f"freezes at step {freeze_at} at the latest, and " if request.freeze_at == AUTO else ""
        raise BadInputError(
            f"--freeze-at {request.freeze_at}: {latest}the fork begins at step {begin.timestep}; give that or a later "
            "step, or never"
        )
    before = begin.config.freeze_at
    given = _freeze_options(request)
    refused = begin.frozen_at is None and before is not None and before < begin.timestep
    if given and refused and request.freeze_at is None:
        raise BadInputError(
            f"{flag_of(given[0])} {getattr(request, given[0])}: the freeze at step {before} was refused, and the fork "
            f"begins at step {begin.timestep}; give also --freeze-at with that or a later step"
        )
    if total is not None and total < begin.timestep:
        raise BadInputError(f"--total-timesteps {total}: the fork begins at step {begin.timestep}; give more")
    freeze_at = changes.get("freeze_at", begin.config.freeze_at)
    end = begin.config.total_timesteps if total is None else total
    if freeze_at is not None and freeze_at > end:
        if total is None:
            raise BadInputError(
                f"--freeze-at {freeze_at}: the run ends at step {end}; give an earlier step, or also --total-timesteps"
            )
        auto = changes.get("freeze_window", begin.config.freeze_window) is not None
        latest = f"the freeze is at step {freeze_at}" + " at the latest" * auto
        hint = "give that or more" + ", or another --freeze-at" * (begin.frozen_at is None)
        raise BadInputError(f"--total-timesteps {end}: {latest}; {hint}")
