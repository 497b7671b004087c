"""Train the DQN of Stable-Baselines3 on an Atari game, and print its returns, CPU seconds and memory.

    python tools/peers/sb3_dqn.py --env Krull --buffer-bytes 0.07GB --json krull.json

Hyperparameters are those of Stable-Baselines3's Zoo for Atari, except that learning starts after 1,600 steps and the
replay has as many rows as fit into --buffer-bytes. A row is a stack of four frames, with its successor shared
(`optimize_memory_usage`). Games, frames, lost lives and evaluation are those of `seer-edge train`. It needs
Stable-Baselines3, which the extra `peers` installs.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from commandline import BadInputError, count, require, run_tool, size

from peers.rivals import STACK, GameLog, Stack, new_perception, open_game, report, rival_parser

if TYPE_CHECKING:
    from seer_edge.envs import Environment

STABLE_BASELINES3 = "stable_baselines3"
LEARNING_STARTS = 1600
EVALUATION_EPSILON = 0.001


class StackedGame(gymnasium.Env[Stack, np.int64]):
    """A game of `seer-edge train` for Gymnasium: stacks of frames, clipped rewards. `log` keeps the training games."""

    def __init__(self, env: "Environment") -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (STACK, *env.spec.frame_shape), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(env.spec.actions.outputs)
        self._env, self._perception, self.log = env, new_perception(env), GameLog()

    def _observed(self, frame: Stack, *, first: bool) -> Stack:
        observation: Stack = self._perception.observe(frame, first=first).input
        return observation.copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Stack, dict[str, Any]]:
        """Begin an episode. After a lost life it continues in the same game."""
        frame = self._env.reset()
        return self._observed(frame, first=self._env.new_scene), {}

    def step(self, action: np.int64) -> tuple[Stack, float, bool, bool, dict[str, Any]]:
        """Take one step of four emulator frames."""
        step = self._env.step(int(action))
        self.log(step.episode)
        reward = float(np.clip(step.reward, -1, 1))
        return self._observed(step.frame, first=False), reward, step.terminated, step.truncated, {}


def measure(flags: argparse.Namespace) -> int:
    """Train, evaluate and print the figures; return the exit status."""
    require("peers", STABLE_BASELINES3)
    import torch

    torch.set_num_threads(1)
    env = open_game(flags)
    game = StackedGame(env)
    rows = flags.buffer_bytes // int(np.prod(game.observation_space.shape))
    if rows < 1:
        raise BadInputError(f"--buffer-bytes {flags.buffer_bytes}: holds no row of four frames; give more")
    agent: Any = importlib.import_module(STABLE_BASELINES3).DQN(
        "CnnPolicy",
        game,
        buffer_size=rows,
        learning_rate=1e-4,
        batch_size=32,
        learning_starts=LEARNING_STARTS,
        target_update_interval=1000,
        train_freq=flags.train_freq,
        gradient_steps=1,
        exploration_fraction=0.1,
        exploration_final_eps=0.01,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        seed=flags.seed,
        device="cpu",
    )
    agent.learn(flags.steps)
    env.close()

    def best(stack: Stack) -> int:
        return int(agent.predict(stack, deterministic=True)[0])

    return report(flags, game.log.games, best, EVALUATION_EPSILON, rows)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = rival_parser("sb3_dqn.py", "Train the DQN of Stable-Baselines3 on an Atari game.")
    parser.add_argument("--buffer-bytes", type=size, default=70_000_000, metavar="SIZE", help="of frames (0.07GB)")
    parser.add_argument("--train-freq", type=count, default=4, metavar="N", help="steps for each update (4)")
    return run_tool("sb3_dqn.py", lambda: measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
