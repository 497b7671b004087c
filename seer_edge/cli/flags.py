"""The flags of every command. A refused command line is answered with one line that names the flag and its value."""

import argparse
import itertools
import re
from typing import Any, NoReturn

from seer_edge.cli.flag_types import (
    flag_type,
    fraction,
    named,
    output_file,
    place,
    preset,
    seed,
    switch,
    threads,
)
from seer_edge.cli.plugins import PLUGIN_COMMANDS
from seer_edge.config.config import AUTO
from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import PROTOCOLS, REPLAYS, TAKES
from seer_edge.config.values import (
    parse_assignment,
    parse_checkpoint_every,
    parse_freeze_at,
    parse_integer,
    parse_memory,
    parse_positive,
    parse_seconds,
)
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.version import __version__
from seer_runtime.policy.bundle import EXTRAS
from seer_runtime.policy.preprocess import COLORS
from seer_runtime.replay.codecs import LATENT_CODECS

SHELLS = ("bash", "zsh", "fish")
NOT_BUILT_COMMANDS = ("report", "sweep", "analyze")
NOT_BUILT_VALUES = {"--freeze-at": ("auto",)}
HELP_POSITION, HELP_COLUMNS = 32, 100

_size, _seconds = flag_type(parse_memory), flag_type(parse_seconds)
_integer, _positive = flag_type(parse_integer), flag_type(parse_positive)
_run = place("a run's folder")


class Parser(argparse.ArgumentParser):
    """Raises BadInputError for a bad command line. Takes no abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _help_formatter)
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        hint = "; write its value behind it" if message.endswith("expected one argument") else ""
        raise BadInputError(message.removeprefix("argument ") + hint)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = ", ".join(map(str, action.choices))
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(action, f"unknown {what} {value!r}; choose one of {names}")


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    formatter = argparse.HelpFormatter(prog, max_help_position=HELP_POSITION, width=HELP_COLUMNS)
    formatter._action_max_length = HELP_POSITION  # one column of texts, which argparse misjudges for commands
    return formatter


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line. It raises BadInputError."""
    parser = Parser(
        prog="seer-edge",
        description="Train vision agents inside a byte budget.",
        epilog="Run `seer-edge COMMAND --help` for the flags of a command.",
    )
    parser.add_argument(
        "--plugin", metavar="MODULE", help="Import a Python module that adds agents, encoders or commands. Repeatable."
    )
    parser.add_argument("--version", action="version", version=f"seer-edge {__version__}", help="Print the version.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, operand: str, text: str) -> argparse.ArgumentParser:
        usage = " ".join(("seer-edge", name, *operand.split(), "[flags]"))
        return commands.add_parser(name, usage=usage, help=text, description=text)

    add_run_flags(add("train", "--env ENV", "Train inside the budget, freeze on the way, evaluate at the end."))
    add_run_flags(add("plan", "--env ENV", "Print what a run would hold, byte by byte, and exit."))
    _add_resume_flags(add("resume", "RUN", "Continue a run from its newest sound checkpoint."))
    _add_eval_flags(add("eval", "RUN|BUNDLE", "Evaluate the newest checkpoint of a run, or a bundle."))
    _add_export_flags(add("export", "RUN -o FILE", "Write the newest checkpoint of a run as one file that acts."))
    _add_act_flags(add("act", "BUNDLE", "Play episodes with a bundle, without torch."))
    presets = add("presets", "[NAME]", "List the presets, or print one as a TOML file to edit.")
    presets.add_argument("name", nargs="?", type=named("a preset"), metavar="NAME", help="Preset to print.")
    presets.add_argument(
        "--algo", choices=tuple(ALGORITHMS), metavar="NAME", help="Agent of the preset. Default: the first that has it."
    )
    doctor = add("doctor", "", "Report what this device has, what is missing and what to run on it.")
    doctor.add_argument("--json", action="store_true", help="Print the report as JSON.")
    completion = add("completion", "SHELL", "Print a script that completes commands and flags in a shell.")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"One of {', '.join(SHELLS)}.")
    for name, added in PLUGIN_COMMANDS.items():
        added.add_flags(add(name, "", added.summary))
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `train` and `plan`."""
    _add_task_flags(parser.add_argument_group("what to train"))
    _add_byte_flags(parser.add_argument_group("bytes and the freeze"))
    how = parser.add_argument_group("how to run")
    how.add_argument("--seed", type=_integer, default=0, metavar="N", help="Seed of every random stream. Default: 0.")
    how.add_argument(
        "--pipeline",
        type=switch,
        default=True,
        metavar="on|off",
        help="Update on a second thread while the environment steps. Default: on.",
    )
    _add_host_flags(how, threads="1", checkpoint="30min", timeout="60s", device="cpu")
    how.add_argument(
        "--eval-every", type=_integer, metavar="N", help="Agent steps between evaluations. Default: the preset's."
    )
    how.add_argument(
        "--eval-episodes", type=_integer, metavar="N", help="Episodes of each evaluation. Default: the preset's."
    )
    how.add_argument(
        "--run-dir",
        type=place("a folder"),
        metavar="DIR",
        help="New folder for the run. Default: runs/ENV__ALGO__SEED__TIME.",
    )
    how.add_argument("--tensorboard", action="store_true", help="Also write TensorBoard events. Default: off.")
    _add_output_flags(parser)


def _add_task_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--env",
        type=named("an environment: Alien, cartpole-swingup, module:EnvId"),
        required=True,
        help="Atari game, control task, Gymnasium id or module:Id, for example Alien or walker-walk. Required.",
    )
    group.add_argument(
        "--preset",
        type=preset,
        metavar="NAME|FILE",
        help="Hyperparameters: a name from `seer-edge presets`, or a .toml file. Default: those of the task.",
    )
    group.add_argument(
        "--set",
        type=flag_type(parse_assignment),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Change one hyperparameter of the preset, for example batch_size=64. May be repeated.",
    )
    group.add_argument(
        "--algo",
        choices=tuple(ALGORITHMS),
        metavar="NAME",
        help=f"Agent: {', '.join(ALGORITHMS)}. Default: the preset's.",
    )
    group.add_argument(
        "--encoder",
        choices=tuple(ENCODERS),
        metavar="NAME",
        help=f"Convolutional encoder: {', '.join(ENCODERS)}. Default: the preset's.",
    )
    group.add_argument(
        "--total-timesteps", type=_integer, metavar="N", help="Length of the run in agent steps. Default: the preset's."
    )
    group.add_argument(
        "--resolution",
        type=_positive,
        metavar="N",
        help="Height and width of a frame in pixels. Default: 84 for Atari, 100 for control, else the environment's.",
    )
    group.add_argument(
        "--color",
        choices=COLORS,
        metavar="NAME",
        help=f"Color of frames: {', '.join(COLORS)}. Default: gray for Atari, rgb for control, else what it shows.",
    )
    group.add_argument(
        "--render-observations",
        action="store_true",
        help="Use what a Gymnasium environment renders as its frames. Default: use its observations.",
    )
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        metavar="NAME",
        help="Atari only: paper (no sticky actions) or machado (sticky actions, whole games). Default: paper.",
    )
    group.add_argument(
        "--from",
        dest="from_",
        type=named("a folder"),
        metavar="SRC",
        help="Run or bundle whose frozen encoder this run imports. Default: train an encoder.",
    )
    group.add_argument(
        "--take",
        choices=TAKES,
        metavar="WHAT",
        help="Import the encoder alone, or the whole agent of a bundle: agent, encoder. Default: what fits.",
    )


def _add_byte_flags(group: argparse._ArgumentGroup) -> None:
    _add_memory_flags(group, otherwise="the preset's")
    group.add_argument(
        "--freeze-at",
        type=flag_type(parse_freeze_at),
        metavar="N|never",
        help="Agent step of the freeze. Default: the preset's, or 40 %% of a short run.",
    )
    group.add_argument(
        "--freeze-layers",
        type=_positive,
        metavar="N",
        help="Freeze only the lowest N layers with weights. Default: the whole encoder.",
    )
    codecs = (*LATENT_CODECS, AUTO)
    group.add_argument(
        "--latent-codec",
        choices=codecs,
        metavar="NAME",
        help=f"How latents are stored: {', '.join(codecs)}. Default: float32.",
    )
    group.add_argument(
        "--augmentations",
        type=_integer,
        metavar="K",
        help="Random crops stored for each latent row, 1 to 15. Default: the preset's.",
    )
    group.add_argument(
        "--replay",
        choices=REPLAYS,
        default=REPLAYS[0],
        metavar="NAME",
        help=f"How batches are drawn: {', '.join(REPLAYS)}. Default: {REPLAYS[0]}.",
    )


def _add_memory_flags(group: argparse._ArgumentGroup, otherwise: str) -> None:
    group.add_argument(
        "--mem-budget",
        type=_size,
        metavar="SIZE",
        help=f"Most bytes of observations, for example 0.07GB or 64MiB. Default: {otherwise}.",
    )
    group.add_argument(
        "--rss-limit",
        type=_size,
        metavar="SIZE",
        help="Resident memory of the process at which the run stops, for example 2GB. Default: no limit.",
    )


def _add_host_flags(
    group: argparse._ArgumentGroup, *, threads: str, checkpoint: str, timeout: str, device: str
) -> None:
    group.add_argument("--threads", type=_integer, metavar="N", help=f"Compute threads, 1 to 256. Default: {threads}.")
    group.add_argument("--device", metavar="NAME", help=f"Device of the learner: cpu or cuda. Default: {device}.")
    group.add_argument(
        "--checkpoint-every",
        type=flag_type(parse_checkpoint_every),
        metavar="N|TIME",
        help=f"Agent steps, or a time such as 90s, 10min or 2h. Default: {checkpoint}.",
    )
    group.add_argument(
        "--env-timeout",
        type=_seconds,
        metavar="TIME",
        help=f"Time for an answer of the environment before the run stops. Default: {timeout}.",
    )


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages")
    amount = group.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="Print only results, warnings and errors.")
    amount.add_argument("--verbose", action="store_true", help="Also print details, and the time of each message.")
    group.add_argument(
        "--log-file",
        type=output_file,
        metavar="FILE",
        help="Also append all messages to this file, with times. Default: none.",
    )


def _add_resume_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_run, metavar="RUN", help="Folder of the run.")
    _add_memory_flags(parser.add_argument_group("bytes"), otherwise="as before")
    changes = parser.add_argument_group("what else may change")
    changes.add_argument(
        "--total-timesteps", type=_integer, metavar="N", help="Length of the run in agent steps. Default: as before."
    )
    _add_host_flags(changes, threads="as before", checkpoint="as before", timeout="as before", device="as before")
    _add_output_flags(parser)


def _add_eval_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=place("a run's folder, or a bundle"),
        metavar="RUN|BUNDLE",
        help="Folder of the run, or a file that `export` wrote.",
    )
    parser.add_argument("--episodes", type=_positive, metavar="N", help="Episodes to play. Default: as the run.")
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the episodes. Default: the run's.")
    parser.add_argument("--threads", type=threads, metavar="N", help="Compute threads, 1 to 256. Default: as the run.")
    parser.add_argument("--device", metavar="NAME", help="Device of the agent: cpu or cuda. Default: as the run.")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    _add_output_flags(parser)


def _add_export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_run, metavar="RUN", help="Folder of the run.")
    parser.add_argument(
        "-o", dest="output", type=output_file, required=True, metavar="FILE", help="Bundle to write. Required."
    )
    parser.add_argument(
        "--with",
        dest="with_",
        choices=EXTRAS,
        action="append",
        default=[],
        metavar="WHAT",
        help="Also include the learner (heads, optimizers) or the replay (its rows). May be repeated.",
    )
    parser.add_argument(
        "--int8", action="store_true", help="Also include an int8 encoder, which a device uses if it is faster there."
    )
    _add_output_flags(parser)


def _add_act_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=place("a bundle"), metavar="BUNDLE", help="File that `export` wrote.")
    parser.add_argument(
        "--env", type=named("an environment"), help="Environment to play. Default: that of the training."
    )
    parser.add_argument("--episodes", type=_positive, default=10, metavar="N", help="Episodes to play. Default: 10.")
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the episodes. Default: the run's.")
    parser.add_argument(
        "--epsilon",
        type=fraction,
        default=0.0,
        metavar="P",
        help="Probability of a random action. Default: 0 (`eval` uses that of the training).",
    )
    parser.add_argument("--record", type=output_file, metavar="FILE", help="Write a video (.mp4) of what it sees.")
    parser.add_argument("--threads", type=threads, metavar="N", help="Compute threads, 1 to 256. Default: 1.")
    parser.add_argument(
        "--env-timeout", type=_seconds, metavar="TIME", help="Time for an answer of the environment. Default: 60s."
    )
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    _add_output_flags(parser)


# --- parsing ---------------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the flags of a command line. Raises BadInputError."""
    flags, unknown = make_parser().parse_known_args(normalised(arguments))
    if not unknown:
        return flags
    of_train = Parser()
    add_run_flags(of_train)
    words = [word.partition("=")[0] for word in unknown]
    fixed = [word for word in words if word in of_train._option_string_actions]
    if flags.command == "resume" and fixed:
        raise BadInputError(
            f"{fixed[0]}: cannot change in a run that has begun; `seer-edge resume --help` lists what can; leave it out"
        )
    raise BadInputError(
        f"unrecognized arguments: {' '.join(unknown)}; `seer-edge {flags.command} --help` lists what there is"
    )


def normalised(arguments: list[str]) -> list[str]:
    """Split `--flag=value` into two words. Keep it whole if the value begins with a dash, as flags do."""
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


def _refuse_not_built_values(arguments: list[str]) -> None:
    for flag, value in itertools.pairwise(arguments):
        if value in NOT_BUILT_VALUES.get(flag, ()):
            raise BadInputError(f"{flag} {value}: not built yet; give another value or leave it out")
