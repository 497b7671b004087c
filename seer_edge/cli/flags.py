"""The flags of every command. A refused command line is answered with one line that names the flag and its value."""

import argparse
import re
from typing import Any, NoReturn

from seer_edge.api.analysis import DEFAULT_ROWS, ROWS_MAX, ROWS_MIN
from seer_edge.api.reports import DEFAULT_PORT
from seer_edge.cli.flag_types import (
    flops,
    fraction,
    integer,
    named,
    output_file,
    place,
    positive,
    seconds,
    seed,
    threads,
    within,
)
from seer_edge.cli.plugins import PLUGIN_COMMANDS
from seer_edge.cli.record_flags import add_record_flags
from seer_edge.cli.run_flags import (
    add_evaluation_flags,
    add_freeze_flags,
    add_host_flags,
    add_memory_flags,
    add_output_flags,
    add_real_time_flags,
    add_run_flags,
    add_set_flag,
    add_tracker_flags,
)
from seer_edge.cli.sweep_flags import SEPARATOR, add_reproduce_flags, add_sweep_flags
from seer_edge.config.registry import ALGORITHMS
from seer_edge.errors import BadInputError
from seer_edge.version import __version__
from seer_runtime.policy.bundle import EXTRAS

SHELLS = ("bash", "zsh", "fish")
HELP_POSITION, HELP_COLUMNS = 32, 100

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
        "--plugin",
        default=argparse.SUPPRESS,  # `load_plugins` has read it
        metavar="MODULE",
        help="Import a Python module that adds agents, encoders or commands. May be repeated. See docs/extending.md.",
    )
    parser.add_argument("--version", action="version", version=f"seer-edge {__version__}", help="Print the version.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, operand: str, text: str) -> argparse.ArgumentParser:
        usage = " ".join(("seer-edge", name, *operand.split(), "[flags]"))
        return commands.add_parser(name, usage=usage, help=text, description=text)

    add_run_flags(add("train", "--env ENV", "Train inside the budget, freeze on the way, evaluate at the end."))
    plan = add("plan", "--env ENV|RUN", "Print what a run would hold, or what RUN holds, byte by byte, and exit.")
    plan.add_argument(
        "run", nargs="?", type=_run, metavar="RUN", help="Folder of a run, whose environment is not opened."
    )
    add_run_flags(plan, env_required=False)
    _add_resume_flags(add("resume", "RUN", "Continue a run from its newest undamaged checkpoint."))
    _add_fork_flags(
        add("fork", "RUN -o DIR", "Begin a new run at a checkpoint of RUN, with other settings from there.")
    )
    add_sweep_flags(add("sweep", "SPEC", "Train many runs: environments x variants x seeds."))
    add_reproduce_flags(
        add("reproduce", "NAME", "Train the runs of a table or figure of the paper, and write the page that compares.")
    )
    _add_eval_flags(add("eval", "RUN|BUNDLE", "Evaluate the newest checkpoint of a run, or a bundle."))
    _add_export_flags(
        add("export", "RUN -o FILE", "Write the newest checkpoint of a run as a bundle, one file for `act`.")
    )
    _add_act_flags(add("act", "BUNDLE", "Play episodes with a bundle, without torch."))
    record = add("record", "--env ENV -o FILE", "Play episodes and write them as demonstrations.")
    add_record_flags(record)
    add_output_flags(record)
    _add_report_flags(add("report", "RUN... -o FILE", "Write one page with figures and tables of runs."))
    _add_analyze_flags(add("analyze", "RUN... -o DIR", "Write how the layers of runs changed while they learned."))
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


def _add_resume_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_run, metavar="RUN", help="Folder of the run.")
    add_memory_flags(parser.add_argument_group("bytes"), otherwise="as before")
    changes = parser.add_argument_group("what else may change")
    changes.add_argument(
        "--total-timesteps", type=integer, metavar="N", help="Length of the run in agent steps. Default: as before."
    )
    add_host_flags(changes, threads="as before", checkpoint="as before", timeout="as before", device="as before")
    add_real_time_flags(changes, otherwise="as before")
    add_evaluation_flags(changes, otherwise="as before")
    add_tracker_flags(changes, otherwise="as before")
    add_output_flags(parser)


def _add_fork_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_run, metavar="RUN", help="Folder of the run.")
    parser.add_argument(
        "-o", dest="output", type=place("a folder"), required=True, metavar="DIR", help="New folder. Required."
    )
    parser.add_argument(
        "--at",
        type=integer,
        metavar="STEP",
        help="Agent step of the checkpoint; `--keep-checkpoint` keeps one. Default: the newest.",
    )
    learning = parser.add_argument_group("what may differ from there")
    learning.add_argument(
        "--seed", type=integer, metavar="N", help="Restart all random streams from this seed. Default: continue them."
    )
    add_set_flag(learning)
    learning.add_argument(
        "--total-timesteps", type=integer, metavar="N", help="Length of the run in agent steps. Default: as before."
    )
    before = parser.add_argument_group("what may differ if the checkpoint is not frozen")
    add_freeze_flags(before, otherwise="as before")
    _add_resumed_flags(parser)


def _add_resumed_flags(parser: argparse.ArgumentParser) -> None:
    add_memory_flags(parser.add_argument_group("bytes"), otherwise="as before")
    host = parser.add_argument_group("how to run")
    add_host_flags(host, threads="as before", checkpoint="as before", timeout="as before", device="as before")
    add_real_time_flags(host, otherwise="as before")
    add_evaluation_flags(parser.add_argument_group("evaluation"), otherwise="as before")
    add_tracker_flags(parser.add_argument_group("what to write"), otherwise="as before")
    add_output_flags(parser)


def _add_eval_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=place("a run's folder, or a bundle"),
        metavar="RUN|BUNDLE",
        help="Folder of the run, or a file that `export` wrote.",
    )
    parser.add_argument("--episodes", type=positive, metavar="N", help="Episodes to play. Default: as the run.")
    _add_max_steps(parser)
    parser.add_argument("--best", action="store_true", help="Use the best checkpoint of a run with --keep-best.")
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the episodes. Default: the run's.")
    _add_record(parser)
    parser.add_argument("--threads", type=threads, metavar="N", help="Compute threads, 1 to 256. Default: as the run.")
    parser.add_argument("--device", metavar="NAME", help="Device of the agent: cpu or cuda. Default: as the run.")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    add_output_flags(parser)


def _add_export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_run, metavar="RUN", help="Folder of the run.")
    parser.add_argument(
        "-o", dest="output", type=output_file, required=True, metavar="FILE", help="Bundle to write. Required."
    )
    parser.add_argument("--best", action="store_true", help="Use the best checkpoint of a run with --keep-best.")
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
    add_output_flags(parser)


def _add_act_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=place("a bundle"), metavar="BUNDLE", help="File that `export` wrote.")
    parser.add_argument(
        "--env", type=named("an environment"), help="Environment to play. Default: that of the training."
    )
    parser.add_argument("--episodes", type=positive, default=10, metavar="N", help="Episodes to play. Default: 10.")
    _add_max_steps(parser)
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the episodes. Default: the run's.")
    parser.add_argument(
        "--epsilon",
        type=fraction,
        default=0.0,
        metavar="P",
        help="Probability of a random action. Default: 0 (`eval` uses that of the training).",
    )
    _add_record(parser)
    parser.add_argument("--threads", type=threads, metavar="N", help="Compute threads, 1 to 256. Default: 1.")
    parser.add_argument(
        "--env-timeout", type=seconds, metavar="TIME", help="Time for an answer of the environment. Default: 60s."
    )
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    add_output_flags(parser)


def _add_report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=_run, metavar="RUN", help="Folders of runs, of one or more games.")
    parser.add_argument(
        "-o", dest="output", type=output_file, metavar="FILE", help="Page to write, such as report.html."
    )
    point = parser.add_mutually_exclusive_group()
    point.add_argument(
        "--at-step", type=positive, metavar="N", help="Compare scores at this step. Default: at the end of each run."
    )
    point.add_argument(
        "--at-flops", type=flops, metavar="N", help="Compare scores at this number of FLOPs, such as 45T."
    )
    parser.add_argument(
        "--figures",
        type=place("a folder"),
        metavar="DIR",
        help="Also write a PNG and a CSV file of each figure to DIR.",
    )
    parser.add_argument(
        "--follow", action="store_true", help="Serve the page on this machine, and refresh it while the runs continue."
    )
    parser.add_argument(
        "--port",
        type=within(0, 2**16 - 1),
        default=DEFAULT_PORT,
        metavar="N",
        help=f"Port of --follow, 0 for any free one. Default: {DEFAULT_PORT}.",
    )
    add_output_flags(parser)


def _add_analyze_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=_run, metavar="RUN", help="Folders of runs that were trained with --analyze."
    )
    parser.add_argument(
        "-o", dest="output", type=place("a folder"), required=True, metavar="DIR", help="Folder to write to. Required."
    )
    parser.add_argument(
        "--rows",
        type=within(ROWS_MIN, ROWS_MAX),
        default=DEFAULT_ROWS,
        metavar="N",
        help=f"Observations of each run that layers are compared on. Default: {DEFAULT_ROWS}.",
    )
    parser.add_argument(
        "--apart",
        type=within(1, ROWS_MAX),
        metavar="N",
        help="Agent steps between the snapshots that are compared. Default: each with the next one.",
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="Compute threads, 1 to 256. Default: as the run.")
    add_output_flags(parser)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--record",
        type=output_file,
        metavar="FILE",
        help="Write a video (.mp4) of the frames that the agent sees. Default: none.",
    )


def _add_max_steps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-steps",
        type=positive,
        metavar="N",
        help="Agent steps at which an episode is cut off. Default: as the run.",
    )


# --- parsing ---------------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the flags of a command line. Raises BadInputError.

    Those of `sweep` have the words behind `--` as `of_train`.
    """
    of_train: list[str] = []
    if arguments[:1] == ["sweep"] and SEPARATOR in arguments:
        here = arguments.index(SEPARATOR)
        arguments, of_train = arguments[:here], normalised(arguments[here + 1 :])
    flags, unknown = make_parser().parse_known_args(normalised(arguments))
    flags.of_train = of_train
    if not unknown:
        return flags
    train = Parser()
    add_run_flags(train)
    words = [word.partition("=")[0] for word in unknown]
    fixed = [word for word in words if word in train._option_string_actions]
    if flags.command in ("resume", "fork") and fixed:
        raise BadInputError(
            f"{fixed[0]}: cannot change in a run that has begun; `seer-edge {flags.command} --help` lists what can; "
            "leave it out"
        )
    if flags.command == "sweep" and fixed:
        raise BadInputError(f"{fixed[0]}: is a flag of train; give it behind {SEPARATOR}")
    raise BadInputError(
        f"unrecognized arguments: {' '.join(unknown)}; `seer-edge {flags.command} --help` lists what there is"
    )


def normalised(arguments: list[str]) -> list[str]:
    """Split `--flag=value` into two words. Keep it whole if the value begins with a dash, as flags do."""
    words: list[str] = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        words += [flag, value] if equals and flag.startswith("--") else [word]
    joined: list[str] = []
    for word in words:
        if joined and re.match(r"-[.\d]", word) and joined[-1].startswith("--"):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined
