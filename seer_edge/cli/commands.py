"""The command line. torch is imported only by the commands that learn."""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seer_edge.cli.flags import HOST_FIELDS, NOT_BUILT_COMMANDS, host_fields, parse
from seer_edge.cli.output import patient_output
from seer_edge.config.config import ENV_TIMEOUT_SECONDS, TrainConfig, build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.envs import EnvOptions, EnvSpec, resolve
from seer_edge.envs.guarded import open_guarded
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_UNSAFE,
    BadInputError,
    EnvironmentFailedError,
    RunStoppedError,
)
from seer_edge.machine.ceiling import check_memory
from seer_edge.machine.devices import check_device
from seer_edge.machine.lean_torch import import_torch
from seer_edge.runs.source import bundle_flags, exists, is_bundle, resize_of
from seer_edge.runs.transfer import ENCODER, import_source
from seer_runtime.system.memory import MemoryLimits, memory_limits
from seer_runtime.system.units import format_size

if TYPE_CHECKING:
    from seer_edge.runs.checkpoint import Saved
    from seer_edge.runs.run_folder import RunFolder
    from seer_edge.runs.transfer import Imported
    from seer_runtime.policy.preprocess import Resize
    from seer_runtime.system.state import State


def _plan_of(flags: argparse.Namespace) -> BytePlan:
    if flags.source is not None and not exists(flags.source):
        raise BadInputError(
            f"--from {flags.source}: there is no such file or folder; give the --run-dir of a run, or a bundle"
        )
    from_bundle = flags.source is not None and is_bundle(flags.source)
    if from_bundle and flags.freeze_layers is not None:
        raise BadInputError(f"--freeze-layers {flags.freeze_layers}: a bundle's encoder is frozen whole; leave it out")
    if not from_bundle and (flags.source is None) != (flags.take is None):
        missing = "--from RUN" if flags.source is None else "--take encoder"
        given = f"--take {flags.take}" if flags.source is None else f"--from {flags.source}"
        raise BadInputError(f"{given}: needs {missing} beside it")
    given_protocol, flags.protocol = flags.protocol, flags.protocol or "paper"
    resize = None if flags.source is None else resize_of(flags.source)  # the encoder sees what it was trained on
    asked = _env_options(flags, resize)
    if from_bundle:
        for name, value in bundle_flags(flags.source).items():
            setattr(flags, name, getattr(flags, name) or value)
    timeout_seconds = flags.env_timeout_seconds or ENV_TIMEOUT_SECONDS
    options = _env_options(flags, resize)
    try:
        spec = _env_spec(flags.env, options, timeout_seconds)
    except BadInputError:
        if asked == options:
            raise
        _env_spec(flags.env, asked, timeout_seconds)  # or it fails for itself
        size = "" if options.resolution is None else f" of {options.resolution}x{options.resolution}"
        raise BadInputError(
            f"--from {flags.source}: its encoder takes {options.color} frames{size}, which --env {flags.env} does not "
            "show; take the encoder of a like environment"
        ) from None
    if given_protocol is not None and resolve(flags.env).kind != "atari":
        raise BadInputError(
            f"--protocol {given_protocol}: {spec.name} is no Atari game and has no protocol; leave it out"
        )
    apart = ("command", "env", "mem_budget", "run_dir", "take", "checkpoint_every", *HOST_FIELDS)
    others = {name: value for name, value in vars(flags).items() if name not in apart}
    return make_plan(build_config(spec, mem_budget_bytes=flags.mem_budget, **others, **host_fields(flags)), spec)


def _env_options(flags: argparse.Namespace, resize: "Resize | None") -> EnvOptions:
    render = flags.render_observations
    return EnvOptions(flags.protocol, flags.resolution, color=flags.color, render=render, resize=resize)


def _taken(plan: BytePlan, take: str | None, *, adopt_codec: bool = False) -> "tuple[BytePlan, Imported | None]":
    """What `plan` takes from its source (see `import_source`), and the plan of a run that does."""
    if plan.config.source is None:
        return plan, None
    with _learner_needed():
        taken = import_source(plan.config.source, plan, take, adopt_codec=adopt_codec)
    for line in taken.warnings:
        print(line, file=sys.stderr)
    return taken.adapt(plan), taken


def _show(plan: BytePlan, taken: "Imported | None") -> None:
    print(plan.render(memory_limits()), flush=True)
    if taken is not None:
        print(f"the encoder is that of step {taken.timestep:,} of {plan.config.source}", flush=True)
        for note in taken.notes:
            print(note, flush=True)


def _warn_of_disk(path: Path, plan: BytePlan) -> None:
    """Say where the disk is too small: two checkpoints are kept, and a third stands while it is written."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free_bytes, needed_bytes = shutil.disk_usage(place).free, 3 * plan.checkpoint_bytes
    if free_bytes < needed_bytes:
        print(
            f"warning: {path}: {format_size(free_bytes)} are free, and three checkpoints may take "
            f"{format_size(needed_bytes)}; make room, or give a smaller --mem-budget",
            file=sys.stderr,
        )


def _env_spec(env: str, options: EnvOptions, timeout_seconds: float, *, resumed: bool = False) -> EnvSpec:
    """Build the environment, render one frame and return its spec.

    Raises BadInputError. For a `resumed` run it raises EnvironmentFailedError where a later attempt may succeed.
    """
    if ":" in env and "" not in sys.path:
        sys.path.insert(0, "")  # a user's module may be in the working directory

    def give_up(reason: str) -> None:
        name = "environment" if resumed else "--env"
        print(f"seer-edge: {name} {env}: {reason}", file=sys.stderr, flush=True)
        os._exit(EXIT_UNSAFE if resumed else EXIT_BAD_INPUT)

    with translate_errors(env, options, resumed=resumed):
        environment = open_guarded(
            env, options, seed=0, training=True, timeout_seconds=timeout_seconds, on_hang=give_up
        )
        with contextlib.closing(environment):
            environment.reset()
            return environment.spec


def _train(flags: argparse.Namespace) -> int:
    from seer_edge.runs import run_folder

    plan, taken = _taken(_plan_of(flags), flags.take, adopt_codec=flags.latent_codec is None)
    check_memory(plan, memory_limits())
    path = flags.run_dir or run_folder.default_path(plan.config)
    run_folder.check(path)
    _prepare_learner(plan)
    if taken is not None:
        from seer_edge.training.trial import check_import

        check_import(plan, taken)
    folder = run_folder.create(path, plan.config)
    with folder.locked():
        from seer_edge.training.run import train

        _show(plan, taken)
        _warn_of_disk(path, plan)
        print(f"run folder: {path}", flush=True)
        return train(plan, folder, taken)


def _prepare_learner(plan: BytePlan) -> None:
    """Import what learning needs and bound its threads. Raises BadInputError for what is missing."""
    with _learner_needed():
        from seer_edge.machine.host import prepare_compute

        # Imported at the freeze; its lack has to be heard before the first step.
        if plan.latent_replay and plan.config.freeze_at and importlib.util.find_spec("onnx") is None:
            raise ImportError(name="onnx")
    prepare_compute(plan.config)
    if plan.config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise BadInputError("--tensorboard: needs tensorboardX; pip install 'seer-edge[tensorboard]'")


ANY_MACHINE = MemoryLimits(2**62, 2**62)
"""A plan may be made on another machine than its run."""


def _plan(flags: argparse.Namespace) -> int:
    plan = _plan_of(flags)
    check_device(plan.config.device)
    plan, taken = _taken(plan, flags.take, adopt_codec=flags.latent_codec is None)
    check_memory(plan, ANY_MACHINE)
    _show(plan, taken)
    return 0


def _resume(flags: argparse.Namespace) -> int:
    from seer_edge.runs import checkpoint, run_folder

    folder = run_folder.open_run(flags.run)
    given = {"mem_budget_bytes": flags.mem_budget, "total_timesteps": flags.total_timesteps}
    changes = {name: value for name, value in given.items() if value is not None} | host_fields(flags)
    with folder.locked():
        if folder.has_no_progress:
            return _begin_after_all(folder, changes)
        saved = checkpoint.newest(folder.checkpoints)
        for line in saved.skipped:
            print(line, file=sys.stderr)
        _check_length(saved, flags.total_timesteps)
        config = dataclasses.replace(saved.config, **changes)
        plan = _plan_again(config, folder)
        check_memory(plan, memory_limits(), resumed=True)
        saved.check_fits(plan)
        folder.check_places()
        _prepare_learner(plan)
        if saved.is_finished and saved.timestep == config.total_timesteps and folder.is_finished:
            for line in folder.repair(saved.config, saved.graph):
                print(line, file=sys.stderr)
            unused = "; the flags have nothing to change" if changes else ""
            print(f"{flags.run}: finished at step {saved.timestep:,}; {saved.path.name} is sound{unused}")
            return 0
        from seer_edge.training.run import resume

        _show(plan, None)
        _warn_of_disk(folder.path, plan)
        print(f"run folder: {flags.run}", flush=True)
        return resume(plan, folder, saved)


def _check_length(saved: "Saved", total_timesteps: int | None) -> None:
    """Raise BadInputError where the run cannot end there."""
    if total_timesteps is None:
        return
    if total_timesteps < saved.timestep:
        raise BadInputError(
            f"--total-timesteps {total_timesteps}: the run is at step {saved.timestep} already; give more"
        )
    freeze_at = saved.config.freeze_at
    if freeze_at is not None and total_timesteps < freeze_at:
        raise BadInputError(f"--total-timesteps {total_timesteps}: the freeze is at step {freeze_at}; give more")


def _begin_after_all(folder: "RunFolder", changes: dict[str, Any]) -> int:
    """A run that ended before its first checkpoint has lost nothing: it begins."""
    from seer_edge.training.run import train

    config = dataclasses.replace(folder.read_config(), **changes)
    plan = _plan_again(config, folder)
    _, taken = _taken(plan, None if is_bundle(config.source or "") else ENCODER)  # the plan is of what was taken
    check_memory(plan, memory_limits())
    folder.check_places()
    _prepare_learner(plan)
    _show(plan, taken)
    print(f"run folder: {folder.path}; it had no checkpoint yet and begins at step 0", flush=True)
    folder.write_config(config)
    return train(plan, folder, taken)


def _plan_again(config: TrainConfig, folder: "RunFolder") -> BytePlan:
    """The plan of a run that exists. Raises BadInputError, and EnvironmentFailedError."""
    spec = _env_spec(config.env, config.env_options, config.env_timeout_seconds, resumed=True)
    try:
        return make_plan(config, spec)
    except BadInputError as error:
        raise BadInputError(f"{folder.path}: {error}") from error


def _eval(flags: argparse.Namespace) -> int:
    from seer_edge.runs import run_folder

    if is_bundle(flags.run):
        return _eval_bundle(flags)
    given = {"eval_episodes": flags.episodes, "seed": flags.seed, "threads": flags.threads, "device": flags.device}
    folder = run_folder.open_run(flags.run, "the --run-dir of a run, or a bundle")
    plan, saved, agent = _newest(folder, given)
    with _learner_needed():
        from seer_edge.machine.host import prepare_compute
        from seer_edge.training.evaluate import evaluate_run
    prepare_compute(plan.config)
    return evaluate_run(plan, saved, agent, as_json=flags.json)


def _doctor(flags: argparse.Namespace) -> int:
    from seer_edge.machine.doctor import doctor

    return doctor(as_json=flags.json)


def _newest(folder: "RunFolder", changes: Mapping[str, Any]) -> "tuple[BytePlan, Saved, State]":
    """The newest sound generation of a run under `changes` that are not None, and what it says of the agent."""
    from seer_edge.runs import checkpoint

    saved, agent = checkpoint.newest_agent(folder.checkpoints)
    for line in saved.skipped:
        print(line, file=sys.stderr)
    given = {name: value for name, value in changes.items() if value is not None}
    plan = _plan_again(dataclasses.replace(saved.config, **given), folder)
    saved.check_fits(plan)
    return plan, saved, agent


def _eval_bundle(flags: argparse.Namespace) -> int:
    from seer_edge.deploy.act import Game, act

    if flags.device not in (None, "cpu"):
        raise BadInputError(f"--device {flags.device}: a bundle is played on the CPU; leave it out")
    game = Game(
        episodes=flags.episodes,
        seed=flags.seed,
        threads=flags.threads,
        timeout_seconds=ENV_TIMEOUT_SECONDS,
        int8=False,  # as the run itself is evaluated
    )
    return act(flags.run, game, as_json=flags.json)


def _act(flags: argparse.Namespace) -> int:
    from seer_edge.deploy.act import EPISODES, Game, act

    game = Game(
        env=flags.env,
        episodes=flags.episodes or EPISODES,
        seed=flags.seed,
        epsilon=flags.epsilon,
        threads=flags.threads,
        timeout_seconds=flags.env_timeout_seconds or ENV_TIMEOUT_SECONDS,
        record=flags.record,
    )
    return act(flags.bundle, game, as_json=flags.json)


def _export(flags: argparse.Namespace) -> int:
    if importlib.util.find_spec("onnx") is None:
        raise BadInputError("export needs onnx; pip install 'seer-edge[train]'")
    from seer_edge.deploy.export import write_bundle
    from seer_edge.runs import run_folder

    folder = run_folder.open_run(flags.run)
    plan, saved, agent = _newest(folder, {})
    for line in write_bundle(flags.output, folder, saved, agent, plan, flags.extras, int8=flags.int8):
        print(line)
    print(f"{flags.output}: {plan.env.id}, step {saved.timestep:,}, {flags.output.stat().st_size:,} B")
    return 0


@contextlib.contextmanager
def _learner_needed() -> Iterator[None]:
    try:
        import_torch()
        yield
    except ImportError as error:
        raise BadInputError(f"learning needs {error.name}; pip install 'seer-edge[train]'") from error


def main() -> int:
    """Run the command in `sys.argv`; returns the exit status."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    handlers = {
        "train": _train,
        "plan": _plan,
        "resume": _resume,
        "eval": _eval,
        "export": _export,
        "act": _act,
        "doctor": _doctor,
    }
    name = f"seer-edge {command}" if command in handlers else "seer-edge"
    with patient_output():
        return _answer(command, arguments, name, handlers)


def _answer(
    command: str, arguments: list[str], name: str, handlers: Mapping[str, Callable[[argparse.Namespace], int]]
) -> int:
    try:
        if command in NOT_BUILT_COMMANDS:
            raise BadInputError(f"{command}: not built yet; there are {', '.join(handlers)}")
        if not arguments:
            raise BadInputError(f"no command; name one of {', '.join(handlers)}, or --help")
        flags = parse(arguments)
        return handlers[flags.command](flags)
    except BadInputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as of `… | head`; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (RunStoppedError, EnvironmentFailedError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_UNSAFE


if __name__ == "__main__":
    sys.exit(main())
