"""What the loop, evaluation and acting see of an environment: single uint8 frames, raw rewards, honest ends."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.names import (
    EnvError,
    EnvId,
    UnavailableEnvError,
    UnknownEnvError,
    UnsupportedEnvError,
    resolve,
)

__all__ = [
    "EnvError",
    "EnvId",
    "EnvSpec",
    "Environment",
    "Episode",
    "Frame",
    "ProtocolName",
    "Step",
    "UnavailableEnvError",
    "UnknownEnvError",
    "UnsupportedEnvError",
    "make_env",
    "resolve",
]

Frame = NDArray[np.uint8]
ProtocolName = Literal["paper", "machado"]


@dataclass(frozen=True)
class EnvSpec:
    """What a learner has to know of an environment before its first frame."""

    id: str
    """The resolved id, which `make_env` takes back: "ALE/Alien-v5"."""
    name: str
    """Short name for run folders and presets: "Alien"."""
    frame_shape: tuple[int, ...]
    action_count: int


@dataclass(frozen=True)
class Episode:
    """A whole game: the sum of the raw rewards of all its steps, and its length in agent steps."""

    episode_return: float
    length_steps: int


@dataclass(frozen=True, eq=False)
class Step:
    """What one agent step led to.

    `frame` is uint8 `frame_shape`, `reward` is raw. At most one of `terminated` and `truncated` is true, and after
    either comes `reset`. `episode` is given when the game itself is over, so not at the loss of a life.
    """

    frame: Frame
    reward: float
    terminated: bool
    truncated: bool
    episode: Episode | None


class Environment(Protocol):
    """A seeded source of frames. Each frame handed out is the caller's own: it is not overwritten later."""

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids and shapes."""

    def reset(self) -> Frame:
        """Begin an episode: its first frame. The first call uses the seed given at construction."""

    def step(self, action: int) -> Step:
        """Take `action`, 0 to `action_count` - 1. Raises RuntimeError where `reset` has to come first."""

    def close(self) -> None:
        """Let go of the emulator."""


def make_env(env: str, *, protocol: ProtocolName, seed: int, training: bool) -> Environment:
    """Build the environment that `env` names; the same arguments give the same trajectory.

    Atari under "paper": no sticky actions, 0 to 29 no-ops before a game, and in training the loss of a life ends the
    episode while the game goes on. Under "machado": sticky actions, whole games, no no-ops. The protocol and
    `training` mean nothing to other environments. Raises EnvError for what cannot be built, ValueError for an
    unknown protocol.
    """
    if protocol not in ("paper", "machado"):
        raise ValueError(f"unknown protocol {protocol!r}; write paper or machado")
    env_id = resolve(env)
    if not env_id.atari:
        from seer_edge.envs.gym_pixels import GymPixels

        return GymPixels(env_id, seed=seed)
    from seer_edge.envs.atari import Atari

    if protocol == "machado":
        return Atari(env_id, seed=seed, sticky=0.25, noops_max=0, life_loss_ends=False)
    return Atari(env_id, seed=seed, sticky=0.0, noops_max=29, life_loss_ends=training)
