"""What the rivals share: games, frames and evaluation of `seer-edge train`, so that returns can be compared."""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from commandline import BadInputError, Parser, add_env_flags, count, open_environment, out_file, progress
from numpy.typing import NDArray

from seer_runtime.policy.perception import FramePerception
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Ledger

if TYPE_CHECKING:
    from seer_edge.envs import Environment
    from seer_edge.envs.environment import Episode

Stack = NDArray[np.uint8]  # [4, 84, 84]
STACK, SIDE = 4, 84
REPORT_STEPS = 10_000
Games = list[dict[str, float]]
"""Step, return and length of each training game."""


class GameLog:
    """Keeps the training games, and says how they go every `REPORT_STEPS` steps. Call it after each step."""

    def __init__(self) -> None:
        self.games: Games = []
        self._steps = 0

    def __call__(self, game: "Episode | None") -> None:
        """Take one step, which ended `game`."""
        self._steps += 1
        if game is not None:
            self.games.append({"step": self._steps, "return": game.episode_return, "length": game.length_steps})
        if self._steps % REPORT_STEPS == 0:
            last = f"{np.mean([game['return'] for game in self.games[-10:]]):.1f}" if self.games else "-"
            progress(f"step {self._steps:,}, mean return of the last ten games {last}")


def rival_parser(prog: str, description: str) -> Parser:
    """Return a parser with the flags that every rival has."""
    parser = Parser(prog=prog, description=description)
    add_env_flags(parser)
    parser.add_argument("--steps", type=count, default=100_000, metavar="N", help="agent steps (100000)")
    parser.add_argument("--eval-episodes", type=count, default=10, metavar="N", help="games at the end (10)")
    parser.add_argument("--json", type=out_file, metavar="FILE", help="also write the figures to this file")
    return parser


def open_game(flags: argparse.Namespace) -> "Environment":
    """Build the game of --env. Raises BadInputError if it cannot be, or is unlike an Atari game."""
    from seer_edge.envs import Discrete

    env = open_environment(flags)
    if env.spec.frame_shape != (SIDE, SIDE) or not isinstance(env.spec.actions, Discrete):
        raise BadInputError(
            f"--env {flags.env}: its frames are not gray with {SIDE}x{SIDE} pixels, or its actions not discrete; "
            "name an Atari game"
        )
    return env


def new_perception(env: "Environment") -> FramePerception:
    """Return what stacks the newest four frames of `env`."""
    height, width = env.spec.frame_shape[-2:]
    stack = FrameStack(STACK, (height, width), np.zeros((STACK, height, width), np.uint8))
    return FramePerception(stack, Crop((height, width), (height, width)), Ledger({}))


def report(flags: argparse.Namespace, games: Games, best: Callable[[Stack], int], epsilon: float, rows: int = 0) -> int:
    """Evaluate an agent by its `best` actions, print its figures and write them to --json. Return the exit status.

    `epsilon` is the share of random actions in the evaluation, and `rows` the size of the replay. CPU seconds and
    memory are those of the whole process, as in `progress.csv` and `summary.json` of a run.
    """
    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.envs.games import evaluate

    player = make_env(flags.env, EnvOptions(), seed=flags.seed + 1, training=False)
    evaluation = evaluate(
        player,
        new_perception(player),
        lambda observed: best(observed.input),
        episodes=flags.eval_episodes,
        epsilon=epsilon,
        rng=np.random.default_rng(flags.seed),
    )
    env_id = player.spec.id
    player.close()
    assert evaluation is not None  # nothing stops it
    late = [game["return"] for game in games if game["step"] > 0.75 * flags.steps]
    seconds = time.process_time()
    rss_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{env_id}, {flags.steps:,} steps, seed {flags.seed}: evaluation {_spread(evaluation.returns)}, training games "
        f"of the last quarter {_spread(late)}, {seconds:.0f} CPU seconds, {rows:,} rows, "
        f"peak {rss_peak_bytes / 1e6:.0f} MB"
    )
    if flags.json is not None:
        figures = {
            "env": env_id,
            "seed": flags.seed,
            "steps": flags.steps,
            "evaluation": evaluation.returns,
            "last_quarter": late,
            "games": games,
            "cpu_seconds": seconds,
            "rows": rows,
            "rss_peak_bytes": rss_peak_bytes,
        }
        flags.json.write_text(json.dumps(figures) + "\n")
    return 0


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values):.1f} ({len(values)})" if values else "- (0)"
