"""The command line: `train`, `plan`, `resume`, `eval`. torch is imported only by the commands that learn."""

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from seer_edge import __version__
from seer_edge.algorithms import ALGORITHMS
from seer_edge.ceiling import check_memory
from seer_edge.config import ENV_TIMEOUT_SECONDS, NEVER, PROTOCOLS, REPLAYS, TrainConfig, build_config
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
from seer_edge.networks.spec import ENCODERS
from seer_edge.plan import BytePlan, make_plan
from seer_edge.presets import PRESETS
from seer_runtime.codecs import LATENT_ELEMENT_BYTES
from seer_runtime.memory import MemoryLimits, memory_limits
from seer_runtime.units import parse_duration, parse_size

if TYPE_CHECKING:
    from seer_edge.run_folder import RunFolder
    from seer_edge.transfer import TakenEncoder

NOT_BUILT_COMMANDS = ("export", "act", "doctor", "report", "sweep", "analyze")
NOT_BUILT_FLAGS = ("--pipeline",)
NOT_BUILT_VALUES = {
    "--freeze-at": ("auto",),
    "--latent-codec": ("uint8", "uint4", "auto"),
    "--take": ("agent",),
}


class _Parser(argparse.ArgumentParser):
    """Answers bad input with one line that names the flag and the value."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(message.removeprefix("argument "))


def _help_width(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=30, width=110)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str, instead: str = "") -> int:
    if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number; write up to 18 digits{instead}")
    return int(text)


def _positive(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too small; give a whole number of at least 1")
    return value


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' is empty; name a folder")
    return text


def _freeze_at(text: str) -> int | str:
    return NEVER if text == NEVER else _count(text, instead=", or never")


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _checkpoint_every(text: str) -> dict[str, Any]:
    """The two fields of a configuration: a bare number is steps."""
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return {"checkpoint_every_steps": _positive(text), "checkpoint_every_seconds": None}
    return {"checkpoint_every_steps": None, "checkpoint_every_seconds": _duration(text)}


def _choice(*choices: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"unknown value {text!r}; choose one of {', '.join(choices)}")
        return text

    return choose


def _not_built(flag: str) -> type[argparse.Action]:
    class Refuse(argparse.Action):
        def __call__(self, *unused: object) -> None:
            raise BadInputError(f"{flag}: not built yet; leave it out")

    return Refuse


def _refuse_not_built_values(arguments: list[str]) -> None:
    for flag, value in itertools.pairwise(arguments):
        if value in NOT_BUILT_VALUES.get(flag, ()):
            raise BadInputError(f"{flag} {value}: not built yet; give another value or leave it out")


def _normalised(arguments: list[str]) -> list[str]:
    """`--flag=value` as two words, except where the value starts with a dash, which argparse takes for a flag."""
    words: list[str] = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        words += [flag, value] if equals and flag.startswith("--") else [word]
    _refuse_not_built_values(words)
    joined: list[str] = []
    for word in words:
        if joined and re.match(r"-[.\d]", word) and joined[-1].startswith("--"):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to train")
    what.add_argument("--env", required=True, help="Alien, cartpole-swingup, a Gymnasium id, module:EnvId")
    what.add_argument("--preset", type=_preset, metavar="NAME", help="hyperparameters of another task's preset")
    what.add_argument("--algo", type=_choice(*ALGORITHMS), metavar="NAME", help=f"{', '.join(ALGORITHMS)} (by actions)")
    what.add_argument("--encoder", type=_choice(*ENCODERS), metavar="NAME", help=", ".join(ENCODERS))
    what.add_argument("--resolution", type=_positive, metavar="N", help="side of a frame; crops scale with it")
    what.add_argument(
        "--protocol", type=_choice(*PROTOCOLS), default="paper", metavar="NAME", help="paper, or machado (sticky)"
    )
    what.add_argument("--total-timesteps", type=_count, metavar="N", help="agent steps (preset's)")
    what.add_argument(
        "--from", dest="source", type=_folder, metavar="RUN", help="start with what --take takes from that run"
    )
    what.add_argument("--take", type=_choice("encoder"), metavar="WHAT", help="encoder: frozen from step 0")
    bytes_ = parser.add_argument_group("bytes")
    _add_memory_flags(bytes_)
    bytes_.add_argument("--freeze-at", type=_freeze_at, metavar="N|never", help="step of the freeze (preset: T_f)")
    bytes_.add_argument("--freeze-layers", type=_positive, metavar="N", help="freeze the lowest N weight layers only")
    bytes_.add_argument("--augmentations", type=_count, metavar="K", help="crops stored an observation (preset's)")
    bytes_.add_argument(
        "--latent-codec",
        type=_choice(*LATENT_ELEMENT_BYTES),
        default="float32",
        metavar="NAME",
        help=" or ".join(LATENT_ELEMENT_BYTES),
    )
    bytes_.add_argument(
        "--replay", type=_choice(*REPLAYS), default="uniform", metavar="NAME", help="uniform or prioritized"
    )
    how = parser.add_argument_group("how to run")
    how.add_argument("--seed", type=_count, default=0, metavar="N", help="of every random stream (0)")
    _add_host_flags(how)
    how.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    how.add_argument("--eval-every", type=_count, metavar="N", help="steps between evaluations (preset's)")
    how.add_argument("--eval-episodes", type=_count, metavar="N", help="games an evaluation (preset: 10)")
    how.add_argument(
        "--run-dir",
        type=lambda text: Path(_folder(text)),
        metavar="DIR",
        help="the run's own folder (runs/ENV__ALGO__SEED__TIME)",
    )
    how.add_argument("--tensorboard", action="store_true", help="write TensorBoard events to the run's tb/ too")
    for flag in NOT_BUILT_FLAGS:
        parser.add_argument(flag, nargs="?", action=_not_built(flag), default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add_memory_flags(group: argparse._ArgumentGroup, otherwise: str = "the preset's") -> None:
    group.add_argument("--mem-budget", type=_size, metavar="SIZE", help=f"of observations: 0.07GB, 64MiB ({otherwise})")
    group.add_argument("--rss-limit", dest="rss_limit_bytes", type=_size, metavar="SIZE", help="of the whole process")


def _add_host_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--threads", type=_count, metavar="N", help="compute threads (1)")
    group.add_argument(
        "--checkpoint-every", type=_checkpoint_every, metavar="N|TIME", help="steps, or 90s, 10min, 2h (30min)"
    )
    group.add_argument(
        "--env-timeout",
        dest="env_timeout_seconds",
        type=_duration,
        metavar="TIME",
        help="an answer of the environment later than that ends the run (60s)",
    )


def _preset(text: str) -> str:
    name = PRESETS[text.lower()].name if text.lower() in PRESETS else text
    return _choice(*(preset.name for preset in PRESETS.values()))(name)


def _parser() -> _Parser:
    parser = _Parser(
        prog="seer-edge",
        description="Train vision agents inside a byte budget.",
        epilog="seer-edge COMMAND --help tells the flags of a command.",
        formatter_class=_help_width,
    )
    parser.add_argument("--version", action="version", version=f"seer-edge {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser, title="commands"
    )

    def add(name: str, operand: str, text: str) -> argparse.ArgumentParser:
        usage = f"seer-edge {name} {operand} [flags]"
        return commands.add_parser(
            name, usage=usage, help=text, description=text, allow_abbrev=False, formatter_class=_help_width
        )

    _add_run_flags(add("train", "--env ENV", "Train inside the budget, freeze on the way, evaluate at the end."))
    _add_run_flags(add("plan", "--env ENV", "Print what a run would hold, byte by byte, and exit."))
    resumption = add("resume", "RUN", "Go on with a run from its newest sound checkpoint, as if it had not stopped.")
    resumption.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    _add_memory_flags(resumption.add_argument_group("bytes"), otherwise="as before")
    changes = resumption.add_argument_group("what else may change")
    changes.add_argument("--total-timesteps", type=_count, metavar="N", help="agent steps; more of them go on longer")
    _add_host_flags(changes)
    evaluation = add("eval", "RUN", "Evaluate the newest checkpoint of a run.")
    evaluation.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    evaluation.add_argument("--episodes", type=_positive, metavar="N", help="games to play (as the run's)")
    evaluation.add_argument("--seed", type=_count, metavar="N", help="of the games (the run's)")
    evaluation.add_argument("--threads", type=_positive, metavar="N", help="compute threads (as the run's)")
    evaluation.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _plan_of(flags: argparse.Namespace) -> BytePlan:
    if (flags.source is None) != (flags.take is None):
        missing = "--from RUN" if flags.source is None else "--take encoder"
        given = f"--take {flags.take}" if flags.source is None else f"--from {flags.source}"
        raise BadInputError(f"{given}: needs {missing} beside it")
    timeout_seconds = flags.env_timeout_seconds or ENV_TIMEOUT_SECONDS
    spec = _env_spec(flags.env, EnvOptions(flags.protocol, flags.resolution), timeout_seconds)
    apart = ("command", "env", "mem_budget", "run_dir", "take", "checkpoint_every", *_HOST_FIELDS)
    others = {name: value for name, value in vars(flags).items() if name not in apart}
    return make_plan(build_config(spec, mem_budget_bytes=flags.mem_budget, **others, **_host_fields(flags)), spec)


_HOST_FIELDS = ("rss_limit_bytes", "threads", "env_timeout_seconds")


def _host_fields(flags: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of the fields that have nothing to do with what is learned."""
    given = {name: getattr(flags, name) for name in _HOST_FIELDS if getattr(flags, name) is not None}
    return {**given, **(flags.checkpoint_every or {})}


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
        changes = {name: value for name, value in given.items() if value is not None} | _host_fields(flags)
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
        flags = _parser().parse_args(_normalised(arguments))
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
