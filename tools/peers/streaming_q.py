"""Train stream Q(lambda), which has no replay, on an Atari game, and print its returns, CPU seconds and memory.

python tools/peers/streaming_q.py --env Krull --steps 100000 --json krull.json

An own implementation of Elsayed et al. 2024, "Streaming Deep Reinforcement Learning Finally Works": Watkins's Q(lambda)
with a network of sparse initial weights and layer normalization, normalized observations, scaled rewards, and an
optimizer that bounds each step (ObGD). Hyperparameters are those of the paper's Atari experiments. Games, frames, lost
lives and evaluation are those of `seer-edge train`, so returns can be compared. But the evaluation keeps the last
epsilon of training, 0.01 instead of 0.001.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from commandline import run_tool

from peers.rivals import SIDE, STACK, GameLog, Games, Stack, new_perception, open_game, report, rival_parser

if TYPE_CHECKING:
    from seer_edge.envs import Environment


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of stream Q(lambda) on Atari (Elsayed et al. 2024)."""

    gamma: float = 0.99
    trace_decay: float = 0.8
    """lambda, the decay of the eligibility trace beside gamma."""
    step_size: float = 1.0
    kappa: float = 2.0
    """How far the optimizer stays below a step that would overshoot."""
    epsilon_first: float = 1.0
    epsilon_last: float = 0.01
    epsilon_share: float = 0.05
    """Share of the run over which epsilon falls."""
    sparsity: float = 0.9


class RunningMoments:
    """Mean and variance of all arrays so far, element by element (Welford 1962)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape)
        self._squares = np.zeros(shape)

    def add(self, values: NDArray[Any] | float) -> None:
        """Take one more array."""
        self.count += 1
        off = values - self.mean
        self.mean += off / self.count
        self._squares += off * (values - self.mean)

    @property
    def variance(self) -> NDArray[np.float64]:
        """The sample variance; 1 until there are two arrays."""
        return self._squares / (self.count - 1) if self.count > 1 else np.ones_like(self.mean)


class RewardScale:
    """Divides rewards by the standard deviation of the discounted sum of rewards so far.

    The authors' code forgets the sum before the last reward of an episode. Here it is forgotten after that reward.
    """

    def __init__(self, gamma: float) -> None:
        self._gamma, self._sum, self._moments = gamma, 0.0, RunningMoments(())

    def __call__(self, reward: float, *, ends: bool) -> float:
        """Return the scaled reward. `ends` marks the last one of an episode."""
        self._sum = self._gamma * self._sum + reward
        self._moments.add(self._sum)
        if ends:
            self._sum = 0.0
        return reward / float(np.sqrt(self._moments.variance + 1e-8))


def sparse_weights(module: nn.Module, sparsity: float, generator: torch.Generator) -> None:
    """Draw the weights of a layer from LeCun's uniform distribution, and set a share of each output's to zero."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return
    with torch.no_grad():
        rows = module.weight.view(len(module.weight), -1)  # [outputs, inputs of each]
        inputs = rows.size(1)
        rows.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        for row in rows:
            row[torch.randperm(inputs, generator=generator)[: math.ceil(sparsity * inputs)]] = 0
        if module.bias is not None:
            module.bias.zero_()


class QNetwork(nn.Module):
    """Q-values `[actions]` of one normalized stack `[1, 4, 84, 84]`. Each layer is normalized before its activation."""

    def __init__(self, actions: int, sparsity: float, generator: torch.Generator) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(STACK, 32, 8, 5), nn.Conv2d(32, 64, 4, 3), nn.Conv2d(64, 64, 3, 2)]
        )
        self.hidden = nn.Linear(256, 256)
        self.values = nn.Linear(256, actions)
        self.apply(lambda module: sparse_weights(module, sparsity, generator))

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Return the Q-values."""
        for layer in self.convolutions:
            stack = _activated(layer(stack))
        values: torch.Tensor = self.values(_activated(self.hidden(stack.flatten(1))))
        return values[0]


def _activated(values: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(functional.layer_norm(values, values.shape[1:]))


class ObGD:
    """Gradient descent along an eligibility trace, with steps bounded so that the error does not change its sign.

    With the TD error d, the trace z and M = step_size * kappa * max(|d|, 1) * |z|_1, a step is
    step_size / max(M, 1) * d * z.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], step_size: float, kappa: float, decay: float) -> None:
        """Follow the gradients of `parameters`. The trace decays by `decay`, gamma * lambda, at each step."""
        self._parameters = list(parameters)
        self.traces = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._step_size, self._kappa, self._decay = step_size, kappa, decay

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor], error: float, *, ends: bool) -> None:
        """Add `gradients` of the value to the trace and take one step. With `ends` the trace is forgotten after it."""
        torch._foreach_mul_(self.traces, self._decay)
        torch._foreach_add_(self.traces, list(gradients))
        size = float(torch.stack(torch._foreach_norm(self.traces, 1)).sum())
        bound = self._step_size * self._kappa * max(abs(error), 1.0) * size
        torch._foreach_add_(self._parameters, self.traces, alpha=self._step_size / max(bound, 1.0) * error)
        if ends:
            torch._foreach_zero_(self.traces)


class StreamQ:
    """The agent: acts epsilon-greedily on a stack and learns from the step that followed, once."""

    def __init__(self, actions: int, steps: int, seed: int, settings: Settings) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.network = QNetwork(actions, settings.sparsity, generator)
        self.optimizer = ObGD(
            self.network.parameters(), settings.step_size, settings.kappa, settings.gamma * settings.trace_decay
        )
        self.moments = RunningMoments((STACK, SIDE, SIDE))
        self.scale = RewardScale(settings.gamma)
        self._settings, self._actions = settings, actions
        self._falls = settings.epsilon_share * steps
        self._random = np.random.default_rng(seed)

    def read(self, stack: Stack, *, learning: bool) -> torch.Tensor:
        """Return a normalized stack `[1, 4, 84, 84]`. With `learning` it counts for the normalization."""
        if learning:
            self.moments.add(stack)
        normal = (stack - self.moments.mean) / np.sqrt(self.moments.variance + 1e-8)
        return torch.from_numpy(normal.astype(np.float32))[None]

    def epsilon(self, timestep: int) -> float:
        """Return the share of random actions at a step."""
        first, last = self._settings.epsilon_first, self._settings.epsilon_last
        return max(last, first + (last - first) * timestep / self._falls)

    @torch.no_grad()
    def best(self, stack: Stack) -> int:
        """Return the best action for a stack."""
        return int(self.network(self.read(stack, learning=False)).argmax())

    def choose(self, values: torch.Tensor, epsilon: float) -> tuple[int, bool]:
        """Return an action and whether it is a best one."""
        best = int(values.argmax())
        action = int(self._random.integers(self._actions)) if self._random.random() < epsilon else best
        return action, action == best

    def learn(
        self, values: torch.Tensor, action: int, reward: float, following: torch.Tensor, *, terminated: bool, ends: bool
    ) -> float:
        """Learn from one step; return its TD error.

        `ends` forgets the trace after it: the episode ended, or the action was not the best one.
        """
        with torch.no_grad():
            after = 0.0 if terminated else self._settings.gamma * float(self.network(following).max())
        error = reward + after - float(values[action].detach())
        gradients = torch.autograd.grad(values[action], list(self.network.parameters()))
        self.optimizer.step(gradients, error, ends=ends)
        return error


def train(env: "Environment", agent: StreamQ, steps: int) -> Games:
    """Train for so many agent steps; return step, return and length of each training game."""
    log, perception = GameLog(), new_perception(env)

    def read(frame: NDArray[np.uint8], *, first: bool) -> torch.Tensor:
        return agent.read(perception.observe(frame, first=first).input, learning=True)

    state = read(env.reset(), first=True)
    for timestep in range(steps):
        values = agent.network(state)
        action, is_best = agent.choose(values, agent.epsilon(timestep))
        step = env.step(action)
        ends = step.terminated or step.truncated
        reward = agent.scale(step.reward, ends=ends)
        state = read(step.frame, first=False)
        agent.learn(values, action, reward, state, terminated=step.terminated, ends=ends or not is_best)
        log(step.episode)
        if ends:
            frame = env.reset()
            state = read(frame, first=env.new_scene)
    return log.games


def measure(flags: argparse.Namespace) -> int:
    """Train, evaluate and print the figures; return the exit status."""
    torch.set_num_threads(1)
    env = open_game(flags)
    settings = Settings()
    agent = StreamQ(env.spec.actions.outputs, flags.steps, flags.seed, settings)
    games = train(env, agent, flags.steps)
    env.close()
    return report(flags, games, agent.best, settings.epsilon_last)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = rival_parser("streaming_q.py", "Train stream Q(lambda), which has no replay, on an Atari game.")
    return run_tool("streaming_q.py", lambda: measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
