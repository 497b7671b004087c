"""The command line: `train`, `plan`, `resume`, `eval`. torch is imported only by the commands that learn."""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seer_edge.ceiling import check_memory
from seer_edge.config import ENV_TIMEOUT_SECONDS, TrainConfig, build_config
from seer_edge.envs import EnvError, EnvOptions, EnvSpec, ResolutionError
from seer_edge.envs.guarded import open_guarded
from seer_edge.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_UNSAFE,
    BadInputError,
    EnvironmentFailedError,
    RunStoppedError,
)
from seer_edge.flags import HOST_FIELDS, NOT_BUILT_COMMANDS, host_fields, make_parser, normalised
from seer_edge.plan import BytePlan, make_plan
from seer_runtime.memory import MemoryLimits, memory_limits

if TYPE_CHECKING:
    from seer_edge.run_folder import RunFolder
    from seer_edge.transfer import TakenEncoder


def _plan_of(flags: argparse.Namespace) -> BytePlan:
    if (flags.source is None) != (flags.take is None):
        missing = "--from RUN" if flags.source is None else "--take encoder"
        given = f"--take {flags.take}" if flags.source is None else f"--from {flags.source}"
        raise BadInputError(f"{given}: needs {missing} beside it")
    timeout_seconds = flags.env_timeout_seconds or ENV_TIMEOUT_SECONDS
    spec = _env_spec(flags.env, EnvOptions(flags.protocol, flags.resolution), timeout_seconds)
    apart = ("command", "env", "mem_budget", "run_dir", "take", "checkpoint_every", *HOST_FIELDS)
    others = {name: value for name, value in vars(flags).items() if name not in apart}
    return make_plan(build_config(spec, mem_budget_bytes=flags.mem_budget, **others, **host_fields(flags)), spec)


def _taken(plan: BytePlan) -> "TakenEncoder | None":
    from seer_edge.transfer import take_encoder

    if plan.config.source is None:
        return None
    taken = take_encoder(plan.config.source, plan)
    for line in taken.warnings:
        print(line, file=sys.stderr)
    return taken


def _show(plan: BytePlan, taken: "TakenEncoder | None") -> None:
    print(plan.render(memory_limits()), flush=True)
    if taken is not None:
        print(f"the encoder is that of step {taken.timestep:,} of {plan.config.source}", flush=True)


def _env_spec(env: str, options: EnvOptions, timeout_seconds: float) -> EnvSpec:
    """What the environment says of itself, once it has shown a first frame. Raises BadInputError."""
    if ":" in env and "" not in sys.path:
        sys.path.insert(0, "")  # a user's own module stands in the working directory

    def give_up(reason: str) -> None:
        print(f"seer-edge: --env {env}: {reason}", file=sys.stderr, flush=True)
        os._exit(EXIT_BAD_INPUT)

    try:
        environment = open_guarded(
            env, options, seed=0, training=True, timeout_seconds=timeout_seconds, on_hang=give_up
        )
        with contextlib.closing(environment):
            environment.reset()
            return environment.spec
    except ResolutionError as error:
        raise BadInputError(f"--resolution {options.resolution}: {error}") from error
    except EnvError as error:
        raise BadInputError(f"--env {env}: {error}") from error
    except EnvironmentFailedError as error:
        raise BadInputError(f"--env {env}: its first frame cannot be had: {error}") from error


def _train(flags: argparse.Namespace) -> int:
    from seer_edge import run_folder

    plan = _plan_of(flags)
    taken = _taken(plan)
    check_memory(plan, memory_limits())
    path = flags.run_dir or run_folder.default_path(plan.config)
    run_folder.check(path)
    _prepare_learner(plan)
    folder = run_folder.create(path, plan.config)
    with folder.locked():
        from seer_edge.train import train

        _show(plan, taken)
        print(f"run folder: {path}", flush=True)
        return train(plan, folder, taken)


def _prepare_learner(plan: BytePlan) -> None:
    """Import what learning needs and bound its threads. Raises BadInputError for what is missing."""
    with _learner_needed():
        from seer_edge.host import prepare_compute

        # Imported at the freeze; its lack has to be heard before the first step.
        if plan.latent_replay and importlib.util.find_spec("onnx") is None:
            raise ImportError(name="onnx")
    prepare_compute(plan.config)
    if plan.config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise BadInputError("--tensorboard: needs tensorboardX; pip install 'seer-edge[tensorboard]'")


ANY_MACHINE = MemoryLimits(2**62, 2**62)
"""A plan may be made on another machine than its run."""


def _plan(flags: argparse.Namespace) -> int:
    plan = _plan_of(flags)
    taken = _taken(plan)
    check_memory(plan, ANY_MACHINE)
    _show(plan, taken)
    return 0


def _resume(flags: argparse.Namespace) -> int:
    from seer_edge import checkpoint, run_folder

    folder = run_folder.open_run(flags.run)
    with folder.locked():
        saved = checkpoint.newest(folder.checkpoints)
        for line in saved.skipped:
            print(line, file=sys.stderr)
        given = {"mem_budget_bytes": flags.mem_budget, "total_timesteps": flags.total_timesteps}
        changes = {name: value for name, value in given.items() if value is not None} | host_fields(flags)
        config = dataclasses.replace(saved.config, **changes)
        if saved.timestep > config.total_timesteps:
            raise BadInputError(
                f"--total-timesteps {config.total_timesteps}: the run is at step {saved.timestep} already; give more"
            )
        plan = _plan_again(config, folder)
        check_memory(plan, memory_limits(), begun=True)
        saved.check_fits(plan)
        folder.check_places()
        _prepare_learner(plan)
        if saved.is_finished and saved.timestep == config.total_timesteps and folder.is_finished:
            for line in folder.mend(saved.config, saved.graph):
                print(line, file=sys.stderr)
            print(f"{flags.run}: finished at step {saved.timestep:,}; {saved.path.name} is sound")
            return 0
        from seer_edge.train import resume

        _show(plan, None)
        print(f"run folder: {flags.run}", flush=True)
        return resume(plan, folder, saved)


def _plan_again(config: TrainConfig, folder: "RunFolder") -> BytePlan:
    """The plan of a run that exists. Raises BadInputError."""
    spec = _env_spec(config.env, config.env_options, config.env_timeout_seconds)
    try:
        return make_plan(config, spec)
    except BadInputError as error:
        raise BadInputError(f"{folder.path}: {error}") from error


def _eval(flags: argparse.Namespace) -> int:
    from seer_edge import checkpoint, run_folder

    folder = run_folder.open_run(flags.run)
    saved, agent = checkpoint.newest_agent(folder.checkpoints)
    for line in saved.skipped:
        print(line, file=sys.stderr)
    given = {"eval_episodes": flags.episodes, "seed": flags.seed, "threads": flags.threads}
    config = dataclasses.replace(saved.config, **{name: value for name, value in given.items() if value is not None})
    plan = _plan_again(config, folder)
    saved.check_fits(plan)
    with _learner_needed():
        from seer_edge.evaluate import evaluate_run
        from seer_edge.host import prepare_compute
    prepare_compute(config)
    return evaluate_run(plan, saved, agent, as_json=flags.json)


@contextlib.contextmanager
def _learner_needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise BadInputError(f"learning needs {error.name}; pip install 'seer-edge[train]'") from error


def main() -> int:
    """Run the command in `sys.argv`; returns the exit status."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    handlers = {"train": _train, "plan": _plan, "resume": _resume, "eval": _eval}
    name = f"seer-edge {command}" if command in handlers else "seer-edge"
    try:
        if command in NOT_BUILT_COMMANDS:
            raise BadInputError(f"{command}: not built yet; there are {', '.join(handlers)}")
        if not arguments:
            raise BadInputError(f"no command; name one of {', '.join(handlers)}, or --help")
        flags = make_parser().parse_args(normalised(arguments))
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
