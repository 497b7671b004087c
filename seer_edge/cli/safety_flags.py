"""The flags that keep what moves in real time safe."""

import argparse

from seer_edge.cli.flag_types import flag_type
from seer_edge.config.values import parse_action_limit, parse_slew_rate, parse_time


def add_safety_flags(group: argparse._ArgumentGroup, *, otherwise: str | None) -> None:
    """Add the flags. `otherwise` is the default of a resumed run; None stands for a new run."""
    group.add_argument(
        "--rest-after",
        type=flag_type(parse_time),
        metavar="TIME",
        help="With --hz: bring the environment to rest if a step is later than this, for example 200ms. "
        f"Default: {otherwise or '1s'}.",
    )
    group.add_argument(
        "--action-limit",
        type=flag_type(parse_action_limit),
        metavar="LOW,HIGH",
        help="With --hz: limits of all continuous actions, within the agent's range -1,1. "
        f"Default: {otherwise or 'those of the environment, or none'}.",
    )
    group.add_argument(
        "--slew-rate",
        type=flag_type(parse_slew_rate),
        metavar="X",
        help="With --hz: most change of a continuous action in a second, in that range. One number, or one for each "
        f"control, such as 2,0.5. Default: {otherwise or 'that of the environment, or none'}.",
    )
