"""The flags of every command, their types and their refusals: one line that names the flag, the value and the mend."""

import argparse
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from seer_edge.config.config import AUTO, MAX_THREADS, NEVER, PROTOCOLS, REPLAYS
from seer_edge.config.presets import PRESETS
from seer_edge.config.registry import ALGORITHMS
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.runs.transfer import TAKES
from seer_edge.version import __version__
from seer_runtime.policy.bundle import EXTRAS
from seer_runtime.policy.preprocess import COLORS
from seer_runtime.replay.codecs import LATENT_ELEMENT_BYTES
from seer_runtime.system.units import parse_duration, parse_size

NOT_BUILT_COMMANDS = ("report", "sweep", "analyze")
NOT_BUILT_VALUES = {
    "--freeze-at": ("auto",),
}


class _Parser(argparse.ArgumentParser):
    """Answers bad input with one line that names the flag and the value."""

    def error(self, message: str) -> NoReturn:
        mend = "; write its value behind it" if message.endswith("expected one argument") else ""
        raise BadInputError(message.removeprefix("argument ") + mend)


class _Help(argparse.HelpFormatter):
    """80 columns; a flag without a help of its own stands on the line of the next, whose help tells of both."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=37, width=80)
        self._waiting: list[argparse.Action] = []
        self._beside: dict[argparse.Action, list[argparse.Action]] = {}

    def add_argument(self, action: argparse.Action) -> None:
        """Take up a flag, or keep it for the next one."""
        if action.option_strings and action.help is None:
            self._waiting.append(action)
            return
        self._beside[action], self._waiting = self._waiting, []
        super().add_argument(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return ", ".join(map(super()._format_action_invocation, (*self._beside.get(action, ()), action)))


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


def _threads(text: str) -> int:
    value = _count(text)
    if not 1 <= value <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give 1 to {MAX_THREADS}")
    return value


def _seed(text: str) -> int:
    value = _count(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give a whole number from 0 to 4294967295")
    return value


def _named(what: str) -> Callable[[str], str]:
    def name(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"{text!r} is empty; name {what}")
        return text

    return name


def _place(what: str) -> Callable[[str], Path]:
    """An empty path would be taken for the working directory."""
    name = _named(what)
    return lambda text: Path(name(text))


_folder = _named("a folder")
_env = _named("an environment: Alien, cartpole-swingup, module:EnvId")


def _fraction(text: str) -> float:
    if re.fullmatch(r"[01]|[01]?\.\d{1,18}", text, re.ASCII) is None or float(text) > 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no fraction; give a number from 0 to 1")
    return float(text)


def _file(text: str) -> Path:
    if not text or text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no file; name one")
    if text == "-":
        raise argparse.ArgumentTypeError("'-': nothing is written to the standard output; name a file")
    return Path(text)


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


def _switch(text: str) -> bool:
    return _choice("on", "off")(text) == "on"


def _refuse_not_built_values(arguments: list[str]) -> None:
    for flag, value in itertools.pairwise(arguments):
        if value in NOT_BUILT_VALUES.get(flag, ()):
            raise BadInputError(f"{flag} {value}: not built yet; give another value or leave it out")


def normalised(arguments: list[str]) -> list[str]:
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
    what.add_argument("--env", type=_env, required=True, help="Alien, walker-walk, Gymnasium or module:Id")
    what.add_argument("--preset", type=_preset, metavar="NAME")
    what.add_argument(
        "--algo", type=_choice(*ALGORITHMS), metavar="NAME", help=f"of another task; {', '.join(ALGORITHMS)}"
    )
    what.add_argument("--encoder", type=_choice(*ENCODERS), metavar="NAME", help=", ".join(ENCODERS))
    what.add_argument("--resolution", type=_positive, metavar="N")
    what.add_argument("--color", type=_choice(*COLORS), metavar="NAME", help=f"side of a frame; {', '.join(COLORS)}")
    what.add_argument("--render-observations", action="store_true", help="frames are what the environment renders")
    what.add_argument(
        "--protocol",
        type=_choice(*PROTOCOLS),
        metavar="NAME",
        help="of Atari: paper, or machado: sticky actions",
    )
    what.add_argument("--total-timesteps", type=_count, metavar="N", help="agent steps (preset's)")
    what.add_argument("--from", dest="source", type=_folder, metavar="SRC")
    what.add_argument(
        "--take", type=_choice(*TAKES), metavar="WHAT", help=f"run or bundle to start from; {', '.join(TAKES)}"
    )
    bytes_ = parser.add_argument_group("bytes")
    _add_memory_flags(bytes_)
    bytes_.add_argument("--freeze-at", type=_freeze_at, metavar="N|never", help="step of the freeze (preset's T_f)")
    bytes_.add_argument("--freeze-layers", type=_positive, metavar="N", help="freeze the lowest N weight layers only")
    bytes_.add_argument(
        "--latent-codec",
        type=_choice(*LATENT_ELEMENT_BYTES, AUTO),
        metavar="NAME",
        help=", ".join((*LATENT_ELEMENT_BYTES, AUTO)),
    )
    bytes_.add_argument("--augmentations", type=_count, metavar="K")
    bytes_.add_argument(
        "--replay",
        type=_choice(*REPLAYS),
        default="uniform",
        metavar="NAME",
        help=f"crops a row; {' or '.join(REPLAYS)}",
    )
    how = parser.add_argument_group("how to run")
    how.add_argument("--seed", type=_count, default=0, metavar="N", help="of every random stream (0)")
    how.add_argument(
        "--pipeline", type=_switch, default=True, metavar="on|off", help="learn beside the environment (on)"
    )
    _add_host_flags(how, "1", "30min", "60s", "cpu")
    how.add_argument("--eval-every", type=_count, metavar="N")
    how.add_argument("--eval-episodes", type=_count, metavar="N", help="steps between evaluations; games of each")
    how.add_argument("--run-dir", type=_place("a folder"), metavar="DIR", help="runs/ENV__ALGO__SEED__TIME")
    how.add_argument("--tensorboard", action="store_true", help="write TensorBoard events, too")


def _add_memory_flags(group: argparse._ArgumentGroup, otherwise: str = "preset's") -> None:
    group.add_argument("--mem-budget", type=_size, metavar="SIZE", help=f"of observations: 0.07GB, 64MiB ({otherwise})")
    group.add_argument("--rss-limit", dest="rss_limit_bytes", type=_size, metavar="SIZE", help="of the whole process")


def _add_host_flags(group: argparse._ArgumentGroup, threads: str, every: str, timeout: str, device: str) -> None:
    group.add_argument("--threads", type=_count, metavar="N")
    group.add_argument("--device", metavar="NAME", help=f"of computing ({threads}); cpu, cuda ({device})")
    group.add_argument(
        "--checkpoint-every", type=_checkpoint_every, metavar="N|TIME", help=f"steps, or 90s, 10min, 2h ({every})"
    )
    group.add_argument(
        "--env-timeout",
        dest="env_timeout_seconds",
        type=_duration,
        metavar="TIME",
        help=f"ends a run that waits for so long ({timeout})",
    )


def _preset(text: str) -> str:
    name = PRESETS[text.lower()].name if text.lower() in PRESETS else text
    return _choice(*(preset.name for preset in PRESETS.values()))(name)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; it raises BadInputError."""
    parser = _Parser(
        prog="seer-edge",
        description="Train vision agents inside a byte budget.",
        epilog="seer-edge COMMAND --help tells the flags of a command.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"seer-edge {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser, title="commands"
    )

    def add(name: str, operand: str, text: str) -> argparse.ArgumentParser:
        usage = " ".join(("seer-edge", name, *operand.split(), "[flags]"))
        command = commands.add_parser(
            name, usage=usage, help=text, description=text, allow_abbrev=False, formatter_class=_Help, add_help=False
        )
        command.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # whoever reads it knows it
        return command

    _add_run_flags(add("train", "--env ENV", "Train inside the budget, freeze on the way, evaluate at the end."))
    _add_run_flags(add("plan", "--env ENV", "Print what a run would hold, byte by byte, and exit."))
    resumption = add("resume", "RUN", "Go on with a run from its newest sound checkpoint, as if it had not stopped.")
    resumption.add_argument("run", type=_place("a run's folder"), metavar="RUN", help="the run's folder")
    _add_memory_flags(resumption.add_argument_group("bytes"), otherwise="as before")
    changes = resumption.add_argument_group("what else may change")
    changes.add_argument("--total-timesteps", type=_count, metavar="N", help="agent steps; more of them go on longer")
    _add_host_flags(changes, *["as before"] * 4)
    evaluation = add("eval", "RUN|BUNDLE", "Evaluate the newest checkpoint of a run, or a bundle.")
    evaluation.add_argument(
        "run",
        type=_place("a run's folder, or a bundle"),
        metavar="RUN|BUNDLE",
        help="the run's folder, or what `export` wrote",
    )
    evaluation.add_argument("--episodes", type=_positive, metavar="N", help="games to play (as the run's)")
    evaluation.add_argument("--seed", type=_seed, metavar="N", help="of the games (the run's)")
    evaluation.add_argument("--threads", type=_threads, metavar="N", help="compute threads (as the run's)")
    evaluation.add_argument("--device", help="cpu, or cuda where there is one (as the run's)")
    evaluation.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_bundle_flags(add("export", "RUN -o FILE", "Write the newest checkpoint of a run as one file for the board."))
    _add_act_flags(add("act", "BUNDLE", "Play with a bundle, without torch."))
    examination = add("doctor", "", "Say what this board has, what is missing, and what to run on it.")
    examination.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a command line. Raises BadInputError."""
    flags, unknown = make_parser().parse_known_args(normalised(arguments))
    if not unknown:
        return flags
    of_train = _Parser(allow_abbrev=False)
    _add_run_flags(of_train)
    words = [word.partition("=")[0] for word in unknown]
    begun = [word for word in words if word in of_train._option_string_actions]
    if flags.command == "resume" and begun:
        raise BadInputError(
            f"{begun[0]}: stays as the run began, like all but the flags of `resume --help`; leave it out"
        )
    raise BadInputError(
        f"unrecognized arguments: {' '.join(unknown)}; `seer-edge {flags.command} --help` has what there is"
    )


def _add_bundle_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_place("a run's folder"), metavar="RUN", help="the run's folder")
    parser.add_argument("-o", dest="output", type=_file, required=True, metavar="FILE", help="the bundle: policy.seer")
    parser.add_argument(
        "--with",
        dest="extras",
        type=_choice(*EXTRAS),
        action="append",
        default=[],
        metavar="WHAT",
        help="learner: heads and optimizers, to go on learning; replay: its rows; may be given twice",
    )
    parser.add_argument(
        "--int8", action="store_true", help="an encoder in whole numbers too, which a device uses where it is faster"
    )


def _add_act_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=_place("a bundle"), metavar="BUNDLE", help="what `export` wrote")
    parser.add_argument("--env", type=_env, help="what to play (what it was trained on)")
    parser.add_argument("--episodes", type=_positive, metavar="N", help="games to play (10)")
    parser.add_argument("--seed", type=_seed, metavar="N", help="of the games (the run's)")
    parser.add_argument(
        "--epsilon",
        type=_fraction,
        default=0.0,
        metavar="P",
        help="chance of a random action (0; `eval` has the run's)",
    )
    parser.add_argument("--record", type=_file, metavar="FILE", help="an .mp4 of what it sees")
    parser.add_argument("--threads", type=_threads, metavar="N", help="compute threads (1)")
    parser.add_argument(
        "--env-timeout", dest="env_timeout_seconds", type=_duration, metavar="TIME", help="for an answer (60s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


HOST_FIELDS = ("rss_limit_bytes", "threads", "device", "env_timeout_seconds")


def host_fields(flags: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of the fields that have nothing to do with what is learned."""
    given = {name: getattr(flags, name) for name in HOST_FIELDS if getattr(flags, name) is not None}
    return {**given, **(flags.checkpoint_every or {})}
