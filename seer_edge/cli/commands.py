"""The commands: each calls one function of the Python API, prints its result and returns the exit status."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from seer_edge import api
from seer_edge.api.results import EvaluationResult
from seer_edge.cli.flags import parse
from seer_edge.cli.leftovers import end_despite_leftovers
from seer_edge.cli.output import LOG, configure, print_result, tolerant_output
from seer_edge.cli.plugins import NAMED_PLUGINS, PLUGIN_COMMANDS, load_plugins
from seer_edge.cli.private_stdout import private_stdout
from seer_edge.cli.sweep_flags import sweep_of
from seer_edge.config.hyperparameters import preset_to_toml
from seer_edge.config.plan import BytePlan
from seer_edge.config.presets import PRESETS
from seer_edge.config.request import ForkRequest, ResumeRequest, RunRequest, flag_of
from seer_edge.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_UNSAFE,
    BadInputError,
    EnvironmentFailedError,
    RunStoppedError,
)
from seer_edge.machine.ceiling import with_memory_warning
from seer_edge.machine.signals import ignore_pauses
from seer_edge.runs.source import is_bundle
from seer_runtime.system.memory import memory_limits

FLAGS_BESIDE_RUN = ("run", "command", "quiet", "verbose", "log_file")
"""Flags of `plan RUN`."""


def _run_options(flags: argparse.Namespace) -> dict[str, Any]:
    """The flags of `train` and `plan` as options of the API."""
    return {field.name: getattr(flags, field.name) for field in fields(RunRequest) if field.name != "env"}


def _train(flags: argparse.Namespace) -> int:
    result = api.train(flags.env, run_dir=flags.run_dir, progress_bar=not flags.quiet, **_run_options(flags))
    return _status(result.signal)


def _plan(flags: argparse.Namespace) -> int:
    if flags.run is not None:
        plain = vars(parse(["plan"]))
        given = [name for name, value in vars(flags).items() if value != plain[name] and name not in FLAGS_BESIDE_RUN]
        if given:
            raise BadInputError(
                f"{flag_of(given[0])}: cannot be given with a run, which has its settings; leave it out"
            )
        _print_plan(api.plan_of_run(flags.run), resumed=True)
        return 0
    if flags.env is None:
        raise BadInputError("the following arguments are required: --env, or the folder of a run")
    _print_plan(api.plan(flags.env, **_run_options(flags)), resumed=False)
    return 0


def _print_plan(plan: BytePlan, *, resumed: bool) -> None:
    limits = memory_limits()
    print_result(with_memory_warning(plan, limits, resumed=resumed).render(limits))


def _resume(flags: argparse.Namespace) -> int:
    options: Any = {field.name: getattr(flags, field.name) for field in fields(ResumeRequest)}
    result = api.resume(flags.run, progress_bar=not flags.quiet, **options)
    return _status(result.signal)


def _fork(flags: argparse.Namespace) -> int:
    options: Any = {field.name: getattr(flags, field.name) for field in fields(ForkRequest)}
    print_result(api.fork(flags.run, flags.output, **options).render())
    return 0


def _sweep(flags: argparse.Namespace) -> int:
    spec, output = sweep_of(flags)
    result = api.sweep(
        spec,
        output,
        engine=flags.engine,
        ray_address=flags.ray_address,
        jobs=flags.jobs,
        dry_run=flags.dry_run,
        progress_bar=not flags.quiet,
        plugins=NAMED_PLUGINS,
    )
    print_result(result.render())
    return EXIT_UNSAFE if result.failed and result.signal is None else _status(result.signal)


def _reproduce(flags: argparse.Namespace) -> int:
    if flags.print:
        for flag, given in (("--scale", flags.scale != 1), ("--envs", flags.envs), ("--seeds", flags.seeds)):
            if given:
                raise BadInputError(f"{flag}: cannot be given with --print, which prints the whole file; leave it out")
        print_result(api.description_of(flags.figure).rstrip())
        return 0
    result = api.reproduce(
        flags.figure,
        flags.output,
        scale=flags.scale,
        envs=flags.envs,
        seeds=flags.seeds,
        engine=flags.engine,
        ray_address=flags.ray_address,
        jobs=flags.jobs,
        dry_run=flags.dry_run,
        progress_bar=not flags.quiet,
        plugins=NAMED_PLUGINS,
    )
    print_result(result.render())
    return EXIT_UNSAFE if result.sweep.failed and result.sweep.signal is None else _status(result.sweep.signal)


def _eval(flags: argparse.Namespace) -> int:
    result = api.evaluate(
        flags.run,
        episodes=flags.episodes,
        max_steps=flags.max_steps,
        best=flags.best,
        seed=flags.seed,
        record=flags.record,
        threads=flags.threads,
        device=flags.device,
        progress_bar=not flags.quiet,
    )
    if result.signal is None or is_bundle(flags.run):
        _print_evaluation(result, flags.json)
    return _status(result.signal)


def _export(flags: argparse.Namespace) -> int:
    print_result(api.export(flags.run, flags.output, with_=flags.with_, int8=flags.int8, best=flags.best).render())
    return 0


def _act(flags: argparse.Namespace) -> int:
    result = api.act(
        flags.bundle,
        env=flags.env,
        episodes=flags.episodes,
        max_steps=flags.max_steps,
        seed=flags.seed,
        epsilon=flags.epsilon,
        record=flags.record,
        threads=flags.threads,
        env_timeout=flags.env_timeout,
    )
    _print_evaluation(result, flags.json)
    return _status(result.signal)


def _record(flags: argparse.Namespace) -> int:
    names = ("env_kwargs", "resolution", "color", "gray_levels", "render_observations", "obs_key", "protocol")
    options = {name: getattr(flags, name) for name in names}
    playing = {name: getattr(flags, name) for name in ("policy", "episodes", "max_steps", "seed", "hz", "env_timeout")}
    result = api.record(flags.env, flags.output, **playing, **options)
    print_result(result.render())
    return _status(result.signal)


def _report(flags: argparse.Namespace) -> int:
    point: Any = {"at_step": flags.at_step, "at_flops": flags.at_flops}
    if flags.follow:
        if flags.figures is not None:
            raise BadInputError("--figures: cannot be given with --follow; leave one out")
        api.follow(flags.runs, flags.output, port=flags.port, **point)
        return 0
    if flags.output is None:
        raise BadInputError("-o: is missing; name the page to write, or give --follow")
    print_result(api.report(flags.runs, flags.output, figures=flags.figures, **point).render())
    return 0


def _analyze(flags: argparse.Namespace) -> int:
    result = api.analyze(
        flags.runs,
        flags.output,
        rows=flags.rows,
        apart=flags.apart,
        threads=flags.threads,
        progress_bar=not flags.quiet,
    )
    print_result(result.render())
    return 0


def _presets(flags: argparse.Namespace) -> int:
    if flags.name is None:
        width = max(len(preset.name) for preset in PRESETS.values())
        found = [preset for preset in PRESETS.values() if flags.algo in (None, preset.algo)]
        print_result("\n".join(f"{preset.name:<{width}}  {preset.algo:<8}  {preset.source}" for preset in found))
        return 0
    of_name = [preset for (task, _), preset in PRESETS.items() if task == flags.name.lower()]
    if not of_name:
        raise BadInputError(f"NAME {flags.name}: unknown preset; `seer-edge presets` lists them")
    found = [preset for preset in of_name if flags.algo in (None, preset.algo)]
    if not found:
        agents = ", ".join(preset.algo for preset in of_name)
        raise BadInputError(f"--algo {flags.algo}: there is no preset {flags.name} of it; choose one of {agents}")
    print_result(preset_to_toml(found[0]).rstrip())
    return 0


def _doctor(flags: argparse.Namespace) -> int:
    from seer_edge.machine.doctor import doctor

    return doctor(as_json=flags.json)


def _completion(flags: argparse.Namespace) -> int:
    from seer_edge.cli.completion import script

    print_result(script(flags.shell))
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "plan": _plan,
    "resume": _resume,
    "fork": _fork,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "eval": _eval,
    "export": _export,
    "act": _act,
    "record": _record,
    "report": _report,
    "analyze": _analyze,
    "presets": _presets,
    "doctor": _doctor,
    "completion": _completion,
}


def _print_evaluation(result: EvaluationResult, as_json: bool) -> None:
    print_result(json.dumps(result.to_json()) if as_json else result.render())


def _status(signal: int | None) -> int:
    return 0 if signal is None else 128 + signal


def main() -> int:
    """Run the command in `sys.argv`. Returns the exit status."""
    ignore_pauses()
    with _own_arguments() as arguments, private_stdout(), tolerant_output():
        status = _answer(arguments)
        end_despite_leftovers(status)
        return status


@contextlib.contextmanager
def _own_arguments() -> Iterator[list[str]]:
    """Hide our arguments from the modules of users, which may parse `sys.argv`."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield before[1:]
    finally:
        sys.argv = before


def _answer(arguments: list[str]) -> int:
    name = f"seer-edge {arguments[0]}" if arguments and arguments[0] in COMMANDS else "seer-edge"
    try:
        return _run(load_plugins(arguments))
    except BadInputError as error:
        LOG.error("%s: %s", name, error)
        return EXIT_BAD_INPUT
    except (RunStoppedError, EnvironmentFailedError) as error:
        LOG.error("%s: %s", name, error)
        return EXIT_UNSAFE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # of `… | head`: buffered text has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception:
        LOG.debug("unexpected error", exc_info=True)  # for --log-file; Python prints it to stderr
        raise


def _run(arguments: list[str]) -> int:
    commands = {**COMMANDS, **{name: command.run for name, command in PLUGIN_COMMANDS.items()}}
    if not arguments:
        raise BadInputError(f"no command; give one of {', '.join(commands)}, or --help")
    flags = parse(arguments)
    given: Mapping[str, Any] = vars(flags)
    log_file: Path | None = given.get("log_file")
    configure(quiet=given.get("quiet", False), verbose=given.get("verbose", False), log_file=log_file)
    return commands[flags.command](flags)


if __name__ == "__main__":
    sys.exit(main())
