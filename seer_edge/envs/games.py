"""Play and evaluate whole episodes, epsilon-greedily and with raw rewards. Imports no torch.

On Atari an episode here is a whole game, not one life.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seer_edge.envs.actions import Action
from seer_edge.envs.environment import Episode, Frame, Playable
from seer_edge.envs.recorder import Recorder
from seer_runtime.policy.perception import Observed

LOG = logging.getLogger(__name__)
EPISODE_STEPS_MAX = 27_000
"""Agent steps after which an endless episode is cut off, with its return so far: Atari's limit of 108,000 frames."""
REPORT_SECONDS = 10.0
"""Time between two messages of an evaluation that takes longer."""


def episode_limit(max_steps: int | None) -> int:
    """Return the agent steps after which an episode is cut off. None selects `EPISODE_STEPS_MAX`."""
    return EPISODE_STEPS_MAX if max_steps is None else max_steps


class LongPlay:
    """Logs how far `episodes` episodes are, every `REPORT_SECONDS`. Call it after each step."""

    def __init__(self, episodes: int, max_steps: int | None) -> None:
        self._episodes, self._limit = episodes, episode_limit(max_steps)
        self._due = time.monotonic() + REPORT_SECONDS
        self._finished = self._steps = 0

    def __call__(self, episode: Episode | None) -> None:
        """Take one step, which ended `episode`."""
        self._finished, self._steps = (self._finished, self._steps + 1) if episode is None else (self._finished + 1, 0)
        if time.monotonic() >= self._due and self._finished < self._episodes:
            self._due = time.monotonic() + REPORT_SECONDS
            LOG.info(
                "played %d of %d episodes, and %s of at most %s steps of the next one",
                self._finished,
                self._episodes,
                f"{self._steps:,}",
                f"{self._limit:,}",
            )


class Observes(Protocol):
    """Something that turns frames into observations, such as a `Perception`."""

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        """Return the observation after the next frame; `first` marks the first frame of an episode."""


class Recorded:
    """Passes the frames that `perception` observes to a recorder too."""

    def __init__(self, perception: Observes, recorder: Recorder) -> None:
        self._perception, self._recorder = perception, recorder

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        """Return the observation after the next frame, as `Observes` says, and record the frame."""
        self._recorder.show(frame)
        return self._perception.observe(frame, first=first)


def game_seeds(seed: int, timestep: int) -> tuple[int, np.random.Generator]:
    """Derive the environment's seed and the generator of random actions for an evaluation at `timestep`."""
    env, actions = np.random.SeedSequence((seed, timestep)).generate_state(2)
    return int(env), np.random.default_rng(int(actions))


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole episodes, and their lengths in agent steps if they are known.

    Raises ValueError unless there is at least one episode and all returns are finite.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...] = ()

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

    @property
    def mean_length(self) -> float:
        """Mean length over episodes in agent steps; NaN if it is unknown."""
        return float(np.mean(self.lengths)) if self.lengths else math.nan

    def to_json(self) -> dict[str, object]:
        """Return the `eval` entry of `summary.json`."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean_return,
            "std_return": self.std_return,
            "returns": list(self.returns),
        }


def play(
    env: Playable,
    perception: Observes,
    act: Callable[[Observed], Action],
    *,
    epsilon: float,
    rng: np.random.Generator,
    max_steps: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Episode | None]:
    """Play until `stop()`. Yield after each step: the episode that has just ended or grown too long, else None.

    An episode is too long after `max_steps` agent steps; see `episode_limit`.
    """
    limit = episode_limit(max_steps)
    frame, begins, first = env.reset(), True, True
    total, length_steps = 0.0, 0
    while not (begins and stop()):  # a reset may take long
        observed = perception.observe(frame, first=first)
        action = env.spec.actions.sample(rng) if rng.random() < epsilon else act(observed)
        step = env.step(action)
        total, length_steps = total + step.reward, length_steps + 1
        episode = step.episode
        cut = step.truncated and step.discard  # a pause, or a step that came too late
        if episode is None and (cut or length_steps == limit):
            episode = Episode(total, length_steps)
        begins = step.terminated or step.truncated or episode is not None
        yield episode
        if stop():
            return
        if episode is not None:
            total, length_steps = 0.0, 0
        frame = env.reset() if begins else step.frame
        # A training environment of Atari continues the game after a lost life.
        first = begins and env.new_scene


def evaluate(
    env: Playable,
    perception: Observes,
    act: Callable[[Observed], Action],
    *,
    episodes: int,
    epsilon: float,
    rng: np.random.Generator,
    max_steps: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    played: Callable[[int], object] = lambda count: None,
    recorder: Recorder | None = None,
) -> Evaluation | None:
    """Play `episodes` whole episodes and return their evaluation, or None once `stop()` is true.

    Episodes of more than `max_steps` agent steps are cut off; see `episode_limit`. After each episode `played` is
    called with the number of episodes so far. `recorder` receives the frames that `perception` observes.
    """
    if recorder is not None:
        perception = Recorded(perception, recorder)
    returns: list[float] = []
    lengths: list[int] = []
    report = LongPlay(episodes, max_steps)
    for episode in play(env, perception, act, epsilon=epsilon, rng=rng, max_steps=max_steps, stop=stop):
        report(episode)
        if episode is not None:
            returns.append(episode.episode_return)
            lengths.append(episode.length_steps)
            played(len(returns))
            if recorder is not None:
                recorder.end_episode()
            if len(returns) == episodes:
                return Evaluation(tuple(returns), tuple(lengths))
    return None
