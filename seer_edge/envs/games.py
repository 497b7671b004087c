"""Play and evaluate whole episodes, epsilon-greedily and with raw rewards. Imports no torch.

On Atari an episode here is a whole game, not one life.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seer_edge.envs.actions import Action
from seer_edge.envs.environment import Environment, Episode, Frame
from seer_runtime.policy.perception import Observed

EPISODE_STEPS_MAX = 27_000
"""Agent steps after which an endless episode is cut off, with its return so far: Atari's limit of 108,000 frames."""


class Observes(Protocol):
    """Something that turns frames into observations, such as a `Perception`."""

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        """Return the observation after the next frame; `first` marks the first frame of an episode."""


def game_seeds(seed: int, timestep: int) -> tuple[int, np.random.Generator]:
    """Derive the environment's seed and the generator of random actions for an evaluation at `timestep`."""
    env, actions = np.random.SeedSequence((seed, timestep)).generate_state(2)
    return int(env), np.random.default_rng(int(actions))


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole episodes. Raises ValueError unless there is at least one and all are finite."""

    returns: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.returns or not np.isfinite(self.returns).all():
            raise ValueError(f"returns must be one or more finite numbers, got {self.returns}")

    @property
    def mean_return(self) -> float:
        """Mean return over episodes."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """Population standard deviation of the returns."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, object]:
        """Return the `eval` entry of `summary.json`."""
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
    """Play without end. Yield after each step: the episode that has just ended or grown too long, else None."""
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
    """Play `episodes` whole episodes and return their evaluation, or None once `stop()` is true.

    After each episode `played` is called with the number of episodes so far.
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
