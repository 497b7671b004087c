"""The flags of `record`, and those of the environment and its frames, which `train` has too."""

import argparse

from seer_edge.cli.flag_types import flag_type, gray_levels, named, output_file, positive, seconds, seed
from seer_edge.config.request import PROTOCOLS
from seer_edge.config.values import parse_hz, parse_json_object
from seer_runtime.policy.preprocess import COLORS


def add_env_kwargs_flag(group: argparse._ActionsContainer) -> None:
    """Add --env-kwargs."""
    group.add_argument(
        "--env-kwargs",
        type=flag_type(parse_json_object),
        metavar="JSON",
        help="Arguments for the environment, for example '{\"full_action_space\": true}'. Default: none.",
    )


def add_frame_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of frames."""
    group.add_argument(
        "--resolution",
        type=positive,
        metavar="N",
        help="Height and width of a frame in pixels. Default: 84 for Atari, 100 for control, else the environment's.",
    )
    group.add_argument(
        "--color",
        choices=COLORS,
        metavar="NAME",
        help=f"Color of frames: {', '.join(COLORS)}. Default: gray for discrete actions, else rgb.",
    )
    group.add_argument(
        "--gray-levels",
        type=gray_levels,
        metavar="N",
        help="Gray levels of frames, for a camera whose low bits are noise: 16, 32, 64. Default: all 256.",
    )
    group.add_argument(
        "--render-observations",
        action="store_true",
        help="Use what a Gymnasium environment renders as its frames. Default: use its observations.",
    )
    group.add_argument(
        "--obs-key",
        type=named("a key of the observations"),
        metavar="KEY",
        help="Picture in observations that are a dictionary. Default: the only picture.",
    )
    group.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        metavar="NAME",
        help="Atari only: paper (no sticky actions) or machado (sticky actions, whole games). Default: paper.",
    )


def add_record_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `record`."""
    parser.add_argument(
        "-o", dest="output", type=output_file, required=True, metavar="FILE", help="File to write. Required."
    )
    parser.add_argument(
        "--env", type=named("an environment"), required=True, help="Environment to play, as for `train`. Required."
    )
    add_env_kwargs_flag(parser)
    add_frame_flags(parser.add_argument_group("frames"))
    play = parser.add_argument_group("how to play")
    play.add_argument(
        "--policy",
        type=named("a policy"),
        default="random",
        metavar="NAME",
        help="random, a bundle, or module:function, which takes a frame and returns an action of the environment. "
        'A person who steers the environment itself reports in info["executed_action"]. Default: random.',
    )
    play.add_argument("--episodes", type=positive, default=10, metavar="N", help="Episodes to play. Default: 10.")
    play.add_argument(
        "--max-steps",
        type=positive,
        metavar="N",
        help="Agent steps at which an episode is cut off. Default: 27000.",
    )
    play.add_argument("--seed", type=seed, default=0, metavar="N", help="Seed of the episodes. Default: 0.")
    play.add_argument(
        "--hz",
        type=flag_type(parse_hz),
        metavar="N",
        help="Act N times a second. Default: the rate of a bundle's run in real time, else the environment waits.",
    )
    play.add_argument(
        "--env-timeout", type=seconds, metavar="TIME", help="Time for an answer of the environment. Default: 60s."
    )
