"""The flags of `train` and `plan`, and those groups of them that other commands share."""

import argparse

from seer_edge.cli.flag_types import (
    flag_type,
    integer,
    named,
    output_file,
    place,
    positive,
    preset,
    seconds,
    size,
    switch,
)
from seer_edge.cli.record_flags import add_env_kwargs_flag, add_frame_flags
from seer_edge.cli.safety_flags import add_safety_flags
from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import EVAL_IN, REPLAYS, STORES, TAKES
from seer_edge.config.values import (
    AUTO,
    parse_assignment,
    parse_checkpoint_every,
    parse_control_period,
    parse_control_socket,
    parse_freeze_at,
    parse_hz,
    parse_mlflow,
    parse_number,
    parse_return,
    parse_status_port,
    parse_steps_or_never,
    parse_wandb,
)
from seer_edge.networks.spec import ENCODERS
from seer_runtime.replay.codecs import LATENT_CODECS


def add_run_flags(parser: argparse.ArgumentParser, *, env_required: bool = True) -> None:
    """Add the flags of `train` and `plan`."""
    what = parser.add_argument_group("what to train")
    _add_task_flags(what, env_required=env_required)
    add_frame_flags(what)
    _add_import_flags(what)
    _add_byte_flags(parser.add_argument_group("bytes and the freeze"))
    how = parser.add_argument_group("how to run")
    how.add_argument("--seed", type=integer, default=0, metavar="N", help="Seed of every random stream. Default: 0.")
    how.add_argument(
        "--pipeline",
        type=switch,
        default=True,
        metavar="on|off",
        help="Update on a second thread while the environment steps. Default: on.",
    )
    add_host_flags(how, threads="1", checkpoint="30min", timeout="60s", device="cpu")
    add_real_time_flags(parser.add_argument_group("real time"), otherwise=None)
    evaluation = parser.add_argument_group("evaluation")
    add_evaluation_flags(evaluation, otherwise="the preset's", place="training, but separate for Atari and control")
    evaluation.add_argument(
        "--keep-best",
        action="store_true",
        help="Keep the policy of the best evaluation too, for `eval --best` and `export --best`. Default: off.",
    )
    what = parser.add_argument_group("what to write")
    what.add_argument(
        "--run-dir",
        type=place("a folder"),
        metavar="DIR",
        help="New folder for the run. Default: runs/ENV__ALGO__SEED__TIME.",
    )
    what.add_argument(
        "--log-every",
        type=integer,
        metavar="N",
        help="Agent steps between rows of progress.csv. Default: 1000 or fewer.",
    )
    what.add_argument("--tensorboard", action="store_true", help="Also write TensorBoard events. Default: off.")
    what.add_argument(
        "--tensorboard-dir",
        type=named("a folder"),
        metavar="DIR",
        help="Write TensorBoard events to a folder in DIR with the run's name. Default: tb in the run's folder.",
    )
    add_tracker_flags(what, otherwise="off")
    add_output_flags(parser)


def _add_task_flags(group: argparse._ArgumentGroup, *, env_required: bool) -> None:
    group.add_argument(
        "--env",
        type=named("an environment: Alien, cartpole-swingup, module:EnvId"),
        required=env_required,
        help="Atari game, control task, Gymnasium id, module:Id or module:Class, for example Alien. "
        f"{'Required.' if env_required else 'Default: that of RUN.'}",
    )
    add_env_kwargs_flag(group)
    group.add_argument(
        "--preset",
        type=preset,
        metavar="NAME|FILE",
        help="Hyperparameters: a name from `seer-edge presets`, or a .toml file. Default: those of the task.",
    )
    add_set_flag(group)
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
        "--total-timesteps", type=integer, metavar="N", help="Length of the run in agent steps. Default: the preset's."
    )


def _add_import_flags(group: argparse._ArgumentGroup) -> None:
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
    group.add_argument(
        "--demos",
        type=named("a file"),
        metavar="FILE",
        help="Fill the replay with the demonstrations of this file before the first step. Default: none.",
    )


def _add_byte_flags(group: argparse._ArgumentGroup) -> None:
    add_memory_flags(group, otherwise=None)
    add_freeze_flags(group, otherwise=None)
    group.add_argument(
        "--replay",
        choices=REPLAYS,
        default=REPLAYS[0],
        metavar="NAME",
        help=f"How batches are drawn: {', '.join(REPLAYS)}. Default: {REPLAYS[0]}.",
    )


def add_set_flag(group: argparse._ArgumentGroup) -> None:
    """Add the flag of hyperparameters."""
    group.add_argument(
        "--set",
        type=flag_type(parse_assignment),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Change one hyperparameter of the preset, for example batch_size=64. May be repeated.",
    )


def add_freeze_flags(group: argparse._ArgumentGroup, *, otherwise: str | None) -> None:
    """Add the flags of the freeze and of rows. `otherwise` is the default of a fork; None stands for a new run."""
    codecs, preset_freeze = (*LATENT_CODECS, AUTO), "the preset's, or 40 %% of a short run"
    preset_views = "the preset's"
    group.add_argument(
        "--freeze-at",
        type=flag_type(parse_freeze_at),
        metavar="N|auto|never",
        help="Agent step of the freeze. auto: once encoder and head change at a steady rate, at half of the run at the "
        f"latest. Default: {otherwise or preset_freeze}.",
    )
    group.add_argument(
        "--freeze-layers",
        type=positive,
        metavar="N",
        help=f"Freeze only the lowest N layers with weights. Default: {otherwise or 'the whole encoder'}.",
    )
    group.add_argument(
        "--latent-codec",
        choices=codecs,
        metavar="NAME",
        help=f"How latents are stored: {', '.join(codecs)}. "
        f"Default: {otherwise or 'float32, or uint8 with --store compact'}.",
    )
    if otherwise is None:  # the rows of a checkpoint stay as they are
        group.add_argument(
            "--store",
            choices=STORES,
            default=STORES[0],
            metavar="NAME",
            help="Rows of a fixed size as in the paper, or compressed rows: "
            f"{', '.join(STORES)}. Default: {STORES[0]}.",
        )
    group.add_argument(
        "--augmentations",
        type=integer,
        metavar="K",
        help=f"Random crops stored for each latent row, 1 to 15. Default: {otherwise or preset_views}.",
    )


def add_memory_flags(group: argparse._ArgumentGroup, *, otherwise: str | None) -> None:
    """Add the flags of bytes. `otherwise` is the default of a resumed run; None stands for a new run."""
    budget, limit = (otherwise, otherwise) if otherwise else ("the preset's", "no limit")
    group.add_argument(
        "--mem-budget",
        type=size,
        metavar="SIZE",
        help=f"Most bytes of observations, for example 0.07GB or 64MiB. Default: {budget}.",
    )
    group.add_argument(
        "--rss-limit",
        type=size,
        metavar="SIZE",
        help=f"Resident memory of the process at which the run stops, for example 2GB. Default: {limit}.",
    )


def add_evaluation_flags(group: argparse._ArgumentGroup, *, otherwise: str, place: str | None = None) -> None:
    """Add the flags of evaluations that a resumed run may change. The texts are their defaults."""
    group.add_argument(
        "--eval-every",
        type=flag_type(parse_steps_or_never),
        metavar="N|never",
        help=f"Agent steps between evaluations; never: not even at the end. Default: {otherwise}.",
    )
    group.add_argument(
        "--eval-episodes", type=integer, metavar="N", help=f"Episodes of each evaluation. Default: {otherwise}."
    )
    group.add_argument(
        "--eval-in",
        choices=EVAL_IN,
        metavar="WHERE",
        help="Environment that evaluations play: training (between episodes) or separate (opened for it). "
        f"Default: {place or otherwise}.",
    )
    group.add_argument(
        "--eval-max-steps",
        type=integer,
        metavar="N",
        help=f"Agent steps at which an evaluation cuts an episode off. Default: {'27000' if place else otherwise}.",
    )
    group.add_argument(
        "--stop-at-return",
        type=flag_type(parse_return),
        metavar="X|never",
        help=f"End the run at the first evaluation with this mean return. Default: {'never' if place else otherwise}.",
    )


def add_tracker_flags(group: argparse._ArgumentGroup, *, otherwise: str) -> None:
    """Add the flags of what is written beside the tables. The text is their default."""
    group.add_argument(
        "--wandb",
        type=flag_type(parse_wandb),
        metavar="PROJECT|never",
        help=f"Also log to this project of Weights & Biases, or ENTITY/PROJECT. Default: {otherwise}.",
    )
    group.add_argument(
        "--mlflow",
        type=flag_type(parse_mlflow),
        metavar="URI|never",
        help=f"Also log to MLflow: http://HOST:PORT, or a folder. Default: {otherwise}.",
    )
    group.add_argument(
        "--status-port",
        type=flag_type(parse_status_port),
        metavar="PORT",
        help="Show the status at this port of this machine, as a page and as /status.json; HOST:PORT for other "
        f"machines, 0 for a free port, never to stop. Default: {otherwise}.",
    )
    group.add_argument(
        "--eval-video",
        action="store_true",
        default=None,
        help="Record the first episode of each evaluation, as the agent sees it. The five newest videos are kept. "
        f"Default: {otherwise}.",
    )


def add_host_flags(group: argparse._ArgumentGroup, *, threads: str, checkpoint: str, timeout: str, device: str) -> None:
    """Add the flags that do not change what is learned. The texts are their defaults."""
    group.add_argument("--threads", type=integer, metavar="N", help=f"Compute threads, 1 to 256. Default: {threads}.")
    group.add_argument("--device", metavar="NAME", help=f"Device of the learner: cpu or cuda. Default: {device}.")
    group.add_argument(
        "--checkpoint-every",
        type=flag_type(parse_checkpoint_every),
        metavar="N|TIME",
        help=f"Agent steps, or a time such as 90s, 10min or 2h. Default: {checkpoint}.",
    )
    group.add_argument(
        "--keep-checkpoint",
        type=integer,
        action="append",
        metavar="STEP",
        help="Write a checkpoint at this agent step and never remove it, for `fork --at`. May be repeated. "
        f"Default: {'none' if threads == '1' else 'as before'}.",
    )
    group.add_argument(
        "--analyze",
        action="store_true",
        default=None,
        help="Keep the weights of encoder and heads at 20 evenly spaced steps, for `seer-edge analyze`. "
        f"Default: {'off' if threads == '1' else 'as before'}.",
    )
    group.add_argument(
        "--env-timeout",
        type=seconds,
        metavar="TIME",
        help=f"Time for an answer of the environment before the run stops. Default: {timeout}.",
    )


def add_real_time_flags(group: argparse._ArgumentGroup, *, otherwise: str | None) -> None:
    """Add the flags of control in real time. `otherwise` is the default of a resumed run; None stands for a new run."""
    rate = group.add_mutually_exclusive_group()
    rate.add_argument(
        "--hz",
        type=flag_type(parse_hz),
        metavar="N",
        help="Act N times a second and learn meanwhile, for an environment that does not wait. "
        f"Default: {otherwise or 'the environment waits for the agent'}.",
    )
    rate.add_argument(
        "--control-period",
        dest="hz",
        type=flag_type(parse_control_period),
        metavar="TIME",
        help=f"The same as a time between two actions, for example 100ms. Default: {otherwise or 'none'}.",
    )
    group.add_argument(
        "--max-updates-per-step",
        type=integer,
        metavar="N",
        help=f"With --hz: most updates between two steps. Default: {otherwise or '1'}.",
    )
    group.add_argument(
        "--min-updates-per-step",
        type=flag_type(parse_number),
        metavar="X",
        help=f"With --hz: a warning says if there are fewer updates a step. Default: {otherwise or '0.2'}.",
    )
    add_safety_flags(group, otherwise=otherwise)
    group.add_argument(
        "--control-socket",
        type=flag_type(parse_control_socket),
        metavar="PATH|never",
        help="With --hz: take the commands pause, resume, status and stop from this Unix domain socket. "
        f"Default: {otherwise or 'never'}.",
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of messages, which most commands have."""
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
