"""From a request to a plan: the environment is opened once, the imported encoder is checked, memory is counted."""

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from seer_edge.api.frame_sample import sampled_row_bytes
from seer_edge.config.build import build_config
from seer_edge.config.config import ENV_TIMEOUT_SECONDS, TrainConfig
from seer_edge.config.plan import BytePlan, make_plan, with_sample
from seer_edge.config.real_time import limits_asked
from seer_edge.config.recorded_env import changed_since
from seer_edge.config.request import RunRequest
from seer_edge.config.values import address_of, family_of
from seer_edge.envs import EnvOptions, EnvSpec, resolve
from seer_edge.envs.atari_options import ATARI_KWARGS, replaced_options
from seer_edge.envs.guarded import open_guarded
from seer_edge.envs.safety import AskedLimits, limits_of
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import EXIT_BAD_INPUT, EXIT_UNSAFE, BadInputError
from seer_edge.runs.checkpoint import Saved, encoder_identity
from seer_edge.runs.demos import open_demos
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.source import SourceFrames, bundle_flags, exists, frames_of, is_bundle
from seer_edge.runs.transfer import Imported, import_source
from seer_runtime.system.units import format_size

LOG = logging.getLogger(__name__)
CHECKPOINTS_ON_DISK = 3  # two are kept, and the next one is written before the oldest is removed


def plan_of(request: RunRequest) -> BytePlan:
    """Return the plan of a new run, without what it imports. Raises BadInputError."""
    _check_source(request)
    wanted, frames = request, None
    if request.from_ is not None:
        frames = frames_of(request.from_)  # the encoder must see frames as it was trained on
        if frames is not None:
            wanted = _with_gray_levels(request, frames)
        if is_bundle(request.from_):
            wanted = wanted.filled(bundle_flags(request.from_))
    spec = _spec_of(request, wanted, frames)
    kind = resolve(request.env).kind
    if request.protocol is not None and kind != "atari":
        raise BadInputError(
            f"--protocol {request.protocol}: {spec.name} is not an Atari game and has no protocol; leave it out"
        )
    if "action_repeat" in dict(request.set) and kind != "control":
        raise BadInputError(f"--set action_repeat: {spec.name} is not a control task and keeps its own; leave it out")
    replaced = replaced_options(request.env, request.env_options)
    if replaced:
        LOG.warning(
            "--env %s: the Atari protocol replaces registered options: %s; --env-kwargs sets %s",
            request.env,
            ", ".join(f"{name} {asked} by {used}" for name, (asked, used) in replaced.items()),
            ", ".join(ATARI_KWARGS),
        )
    plan = make_plan(build_config(spec, **wanted.config_options()), spec)
    # A plan must not move a robot, so other environments are not played.
    if plan.config.compact and plan.holds_frames and kind in ("atari", "control"):
        config = plan.config
        row_bytes = sampled_row_bytes(config.env, config.env_options, config.total_timesteps)
        plan = with_sample(plan, row_bytes)
    if plan.config.demos is not None:
        with open_demos(Path(plan.config.demos), spec, plan.config.gray_levels) as demos:
            plan = dataclasses.replace(plan, notes=(*plan.notes, _note_on_demos(plan, demos.rows)))
            if demos.about.get("environment") != spec.id:
                LOG.warning(
                    "--demos %s: recorded in %r, not in %s; leave it out unless both show the same and have the same "
                    "actions",
                    plan.config.demos,
                    demos.about.get("environment"),
                    spec.id,
                )
    LOG.debug("environment %s: frames %s, %s", spec.id, "x".join(map(str, spec.frame_shape)), spec.actions)
    LOG.debug("settings: %s", plan.config.settings)
    return plan


def _note_on_demos(plan: BytePlan, rows: int) -> str:
    """Return the line on `rows` demonstrations. Only the newest are kept if not all fit."""
    capacity = plan.frame_capacity if plan.holds_frames else plan.latent_capacity
    if rows <= capacity:
        which = f"{rows:,} rows"
    elif plan.config.compact:
        which = f"as many of the newest of {rows:,} rows as fit, at least {capacity:,},"
    else:
        which = f"the newest {capacity:,} of {rows:,} rows"
    return f"{which} of {plan.config.demos} are stored before the first step"


def plan_before_source(request: RunRequest, source: str, of_source: BytePlan) -> BytePlan:
    """Return the plan of a run that will import the encoder of `source`, a run that need not exist yet.

    `of_source` is the plan of that run. Raises BadInputError if its encoder does not fit.
    """
    planned = plan_of(dataclasses.replace(request, freeze_at=1))
    wanted, found = encoder_identity(planned), encoder_identity(of_source)
    for name in wanted:
        if found[name] != wanted[name]:
            raise BadInputError(
                f"--from {source}: its encoder does not fit: {name} is {found[name]} there and {wanted[name]} here; "
                f"import from a run with the same {name}"
            )
    codec = TrainConfig.latent_codec if request.latent_codec is None else request.latent_codec
    config = dataclasses.replace(planned.config, source=source, freeze_at=0, freeze_reason="--from", latent_codec=codec)
    return make_plan(config, planned.env)


def _check_source(request: RunRequest) -> None:
    """Raise BadInputError if --from, --take and --freeze-layers do not fit together."""
    source, take = request.from_, request.take
    if source is not None and not exists(source):
        raise BadInputError(
            f"--from {source}: there is no such file or folder; give the --run-dir of a run, or a bundle"
        )
    if source is not None and is_bundle(source):
        if request.freeze_layers is not None:
            raise BadInputError(
                f"--freeze-layers {request.freeze_layers}: the encoder of a bundle is frozen whole; leave it out"
            )
    elif (source is None) != (take is None):
        if source is None:
            raise BadInputError(f"--take {take}: also give --from RUN")
        raise BadInputError(f"--from {source}: only the encoder of a run can be imported; also give --take encoder")


def _with_gray_levels(request: RunRequest, frames: SourceFrames) -> RunRequest:
    """Return the request with the gray levels of the source. Raises BadInputError if it asks for others."""
    if request.gray_levels not in (None, frames.gray_levels):
        raise BadInputError(
            f"--gray-levels {request.gray_levels}: the encoder of --from {request.from_} was trained on frames of "
            f"{frames.gray_levels or 256} gray levels; leave it out"
        )
    return dataclasses.replace(request, gray_levels=frames.gray_levels)


def _spec_of(request: RunRequest, wanted: RunRequest, frames: SourceFrames | None) -> EnvSpec:
    """Open the environment as the imported encoder needs it. `request` is what the user asked for."""
    timeout = ENV_TIMEOUT_SECONDS if request.env_timeout is None else request.env_timeout
    made = {} if frames is None else dataclasses.asdict(frames)
    options, asked = (dataclasses.replace(of.env_options, **made) for of in (wanted, request))
    try:
        return open_spec(request.env, options, timeout, limits=_limits(request))
    except BadInputError:
        if asked == options:
            raise
        open_spec(request.env, asked, timeout)  # raises if the environment itself is at fault
        size = "" if options.resolution is None else f" of {options.resolution}x{options.resolution}"
        raise BadInputError(
            f"--from {request.from_}: its encoder needs {options.color} frames{size}, which --env {request.env} does "
            "not show; import the encoder of a similar environment"
        ) from None


def _limits(request: RunRequest) -> AskedLimits | None:
    return None if request.hz is None else AskedLimits(request.hz, request.action_limit, request.slew_rate)


def open_spec(
    env: str,
    options: EnvOptions,
    timeout_seconds: float,
    *,
    resumed: bool = False,
    limits: AskedLimits | None = None,
) -> EnvSpec:
    """Build the environment, render one frame and return its spec. Call it inside `closing_idle`.

    With `limits`, check that actions in real time can be limited so, and bring the environment to rest first.

    Raises BadInputError. For a run that is `resumed`, raises EnvironmentFailedError if another try may succeed. An
    environment that does not answer in time ends the process, because its thread cannot be interrupted.
    """

    def end_process(reason: str) -> None:
        LOG.critical("seer-edge: %s %s: %s", "environment" if resumed else "--env", env, reason)
        os._exit(EXIT_UNSAFE if resumed else EXIT_BAD_INPUT)

    with translate_errors(env, options, resumed=resumed):
        environment = open_guarded(
            env, options, seed=0, training=True, timeout_seconds=timeout_seconds, on_hang=end_process
        )
        try:
            if limits is not None:
                limits_of(environment.spec, environment.safety, limits)
                environment.rest()
            environment.reset()
        except BaseException:
            environment.close()
            raise
        environment.set_aside()  # the run uses it again
        return environment.spec


def plan_again(config: TrainConfig, folder: RunFolder, *, frozen: bool) -> BytePlan:
    """Return the plan of a run that exists, `frozen` or not. Raises BadInputError, and EnvironmentFailedError."""
    spec = open_spec(
        config.env, config.env_options, config.env_timeout_seconds, resumed=True, limits=limits_asked(config)
    )
    then = config.environment or spec  # runs of earlier versions do not record it
    changed = changed_since(then, spec)
    if changed is not None:
        raise BadInputError(
            f"{folder.path}: the environment {config.env} has changed: {changed}; "
            "change it back, or start a new run with train"
        )
    if then.own_actions != spec.own_actions:
        LOG.warning(
            "environment %s: its actions were %s when the run began, and are %s now",
            config.env,
            then.own_actions or "those of the agent",
            spec.own_actions or "those of the agent",
        )
    if then.picture != spec.picture and config.environment is not None:
        LOG.warning(
            "environment %s: it observed %s when the run began, and observes %s now",
            config.env,
            then.picture or "screens",
            spec.picture or "screens",
        )
    return _plan_in(config, spec, folder, frozen=frozen)


def recorded_plan(config: TrainConfig, folder: RunFolder, *, frozen: bool) -> BytePlan:
    """Return the plan of a run, `frozen` or not, without opening its environment. Raises BadInputError.

    A run of an earlier version does not record its environment, which is opened then, as by `plan_again`.
    """
    if config.environment is None:
        return plan_again(config, folder, frozen=frozen)
    return _plan_in(config, config.environment, folder, frozen=frozen)


def _plan_in(config: TrainConfig, spec: EnvSpec, folder: RunFolder, *, frozen: bool) -> BytePlan:
    try:
        return make_plan(config, spec, frozen=frozen)
    except BadInputError as error:
        raise BadInputError(f"{folder.path}: {error}") from error


def check_continued(plan: BytePlan, saved: Saved) -> None:
    """Raise BadInputError if the checkpoint does not fit the plan of the run that continues it. Builds nothing."""
    saved.check_fits(plan)
    if plan.config.analyze and not saved.config.analyze and saved.frozen and plan.encoder.whole:
        raise BadInputError("--analyze: the encoder is frozen already and never changes again; leave it out")


def with_import(plan: BytePlan, take: str | None, *, adopt_codec: bool = False) -> tuple[BytePlan, Imported | None]:
    """Return the plan of a run that imports from its source, with notes on what it imports; see `import_source`."""
    source = plan.config.source
    if source is None:
        return plan, None
    with learner_needed():
        imported = import_source(source, plan, take, adopt_codec=adopt_codec)
    for line in imported.warnings:
        LOG.warning(line)
    origin = f"the encoder is that of step {imported.timestep:,} of {source}"
    return dataclasses.replace(imported.adapt(plan), notes=(origin, *imported.notes)), imported


@contextlib.contextmanager
def learner_needed() -> Iterator[None]:
    """Import torch. Raises BadInputError if it, or a package that the block imports, is not installed."""
    try:
        importlib.import_module("torch")
        yield
    except ImportError as error:
        raise BadInputError(f"learning needs {error.name}; pip install 'seer-edge[train]'") from error


def prepare_learner(plan: BytePlan) -> None:
    """Import the packages that learning needs and bound their threads. Raises BadInputError for a missing one."""
    with learner_needed():
        from seer_edge.machine.host import prepare_compute

        # The freeze imports it, which is too late to find out that it is missing.
        if plan.latent_replay and plan.config.freeze_at and importlib.util.find_spec("onnx") is None:
            raise ImportError(name="onnx")
        if plan.config.compact and importlib.util.find_spec("zstandard") is None:
            raise ImportError(name="zstandard")
    prepare_compute(plan.config)
    _check_trackers(plan.config)


def _check_trackers(config: TrainConfig) -> None:
    """Raise BadInputError for a tracker whose package is not installed, or whose folder is a file."""
    for flag, package, given in (
        ("--tensorboard", "tensorboardX", config.tensorboard),
        ("--wandb", "wandb", config.wandb),
        ("--mlflow", "mlflow", config.mlflow),
    ):
        if given and importlib.util.find_spec(package) is None:
            raise BadInputError(f"{flag}: needs {package}; pip install 'seer-edge[{flag[2:]}]'")
    for flag, folder in (("--tensorboard-dir", config.tensorboard_dir), ("--mlflow", config.mlflow)):
        if folder is not None and os.path.lexists(folder) and not Path(folder).is_dir():
            raise BadInputError(f"{flag} {folder}: not a folder; name another")


def check_addresses(config: TrainConfig) -> None:
    """Raise BadInputError if the run could not listen at --status-port or --control-socket now."""
    if config.status_port is not None:
        host, port = address_of(config.status_port)
        try:
            socket.create_server((host, port), family=family_of(host)).close()
        except OSError as error:
            raise BadInputError(
                f"--status-port {config.status_port}: cannot be used ({error.strerror}); give another, or 0 for any"
            ) from error
    if config.control_socket is not None:
        from seer_edge.machine.control_socket import check_path

        try:
            check_path(config.control_socket)
        except ValueError as error:
            raise BadInputError(f"--control-socket {config.control_socket}: {error}, or never") from error


def warn_of_disk(path: Path, plan: BytePlan) -> None:
    """Log a warning if the disk is too small for the checkpoints."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    count = CHECKPOINTS_ON_DISK + len(plan.config.keep_checkpoint)
    free_bytes, needed_bytes = shutil.disk_usage(place).free, count * plan.checkpoint_bytes
    if free_bytes < needed_bytes:
        LOG.warning(
            "%s: %s are free, and %s checkpoints may take %s; free some space, or give a smaller --mem-budget",
            path,
            format_size(free_bytes),
            "three" if count == CHECKPOINTS_ON_DISK else count,
            format_size(needed_bytes),
        )
