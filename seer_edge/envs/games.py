"""Whole games: raw rewards, epsilon-greedy, each to its end. No torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seer_edge.envs import Action, Environment, Episode, Frame
from seer_runtime.policy.perception import Observed

EPISODE_STEPS_MAX = 27_000
"""Where a game that does not end is left, with its return up to there: Atari's own limit of 108,000 frames."""


class Observes(Protocol):
    """Turns frames into observations, as a `Perception` does."""

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        """Take the next frame; `first` says that an episode begins with it."""


def game_seeds(seed: int, timestep: int) -> tuple[int, np.random.Generator]:
    """The environment's seed and the stream of random actions with which an agent of that step is evaluated."""
    env, actions = np.random.SeedSequence((seed, timestep)).generate_state(2)
    return int(env), np.random.default_rng(int(actions))


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole games. Raises ValueError for none, and for one that is not finite."""

    returns: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.returns or not np.isfinite(self.returns).all():
            raise ValueError(f"not the returns of games: {self.returns}")

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """Population standard deviation over episodes."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, object]:
        """The `eval` entry of `summary.json`."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "returns": list(self.returns),
        }


def play(
    env: Environment,
    perception: Observes,
    act: Callable[[Observed], Action],
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> Iterator[Episode | None]:
    """Play on and on; yields after each step, with the episode where a whole game ended or became too long."""
    observed = perception.observe(env.reset(), first=True)
    total, length_steps = 0.0, 0
    while True:
        action = env.spec.actions.sample(rng) if rng.random() < epsilon else act(observed)
        step = env.step(action)
        total, length_steps = total + step.reward, length_steps + 1
        episode = step.episode
        if episode is None and length_steps == EPISODE_STEPS_MAX:
            episode = Episode(total, length_steps)
        ended = step.terminated or step.truncated or episode is not None
        yield episode
        if episode is not None:
            total, length_steps = 0.0, 0
        observed = perception.observe(env.reset() if ended else step.frame, first=ended)


def evaluate(
    env: Environment,
    perception: Observes,
    act: Callable[[Observed], Action],
    *,
    episodes: int,
    epsilon: float,
    rng: np.random.Generator,
    stop: Callable[[], bool] = lambda: False,
    played: Callable[[int], object] = lambda count: None,
) -> Evaluation | None:
    """Returns of `episodes` whole games, or None where `stop` asked to leave off first.

    `played` is told the number of games after each.
    """
    returns: list[float] = []
    for episode in play(env, perception, act, epsilon=epsilon, rng=rng):
        if stop():
            return None
        if episode is not None:
            returns.append(episode.episode_return)
            played(len(returns))
            if len(returns) == episodes:
                break
    return Evaluation(tuple(returns))
