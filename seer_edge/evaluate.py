"""Evaluation: whole games, raw rewards, no noise, epsilon-greedy with a small epsilon."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seer_edge.envs import Environment, Episode
from seer_runtime.perception import Observed, Perception


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole games."""

    returns: tuple[float, ...]

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
    perception: Perception,
    act: Callable[[Observed], int],
    *,
    epsilon: float,
    rng: np.random.Generator,
) -> Iterator[Episode | None]:
    """Play on and on; yields after each step, with the episode where a whole game ended."""
    observed = perception.observe(env.reset(), first=True)
    while True:
        action = int(rng.integers(env.spec.action_count)) if rng.random() < epsilon else act(observed)
        step = env.step(action)
        ended = step.terminated or step.truncated
        yield step.episode
        observed = perception.observe(env.reset() if ended else step.frame, first=ended)


def evaluate(
    env: Environment,
    perception: Perception,
    act: Callable[[Observed], int],
    *,
    episodes: int,
    epsilon: float,
    rng: np.random.Generator,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Returns of `episodes` whole games, or None where `stop` asked to leave off first."""
    returns: list[float] = []
    for episode in play(env, perception, act, epsilon=epsilon, rng=rng):
        if stop():
            return None
        if episode is not None:
            returns.append(episode.episode_return)
            if len(returns) == episodes:
                break
    return Evaluation(tuple(returns))
