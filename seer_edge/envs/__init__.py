"""What the loop, evaluation and acting see of an environment: single uint8 frames, raw rewards, honest ends."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.actions import Action, Actions, Continuous, Discrete
from seer_edge.envs.names import (
    EnvError,
    EnvId,
    ResolutionError,
    UnavailableEnvError,
    UnknownEnvError,
    UnsupportedEnvError,
    ViewError,
    resolve,
)
from seer_runtime.policy.preprocess import Color, Resize
from seer_runtime.system.state import State

__all__ = [
    "Action",
    "Actions",
    "Continuous",
    "Discrete",
    "EnvError",
    "EnvId",
    "EnvOptions",
    "EnvSpec",
    "Environment",
    "Episode",
    "Frame",
    "ProtocolName",
    "ResolutionError",
    "Step",
    "UnavailableEnvError",
    "UnknownEnvError",
    "UnsupportedEnvError",
    "ViewError",
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
    """Of one frame: (H, W) in gray, or (3, H, W)."""
    crop_shape: tuple[int, int]
    """Height and width that learning crops a frame to; a frame's own where it is not cropped."""
    actions: Actions
    process_bytes: int = field(default=0, compare=False)
    """What its emulator or renderer takes of the process, as measured; 0 where that is not known."""
    as_registered: bool = field(default=False, compare=False)
    """Whether it is stepped as it is registered: neither a protocol nor an action repeat means anything to it."""
    resize: Resize = "area"
    """How its screens become frames."""


@dataclass(frozen=True)
class EnvOptions:
    """How an environment is shown and stepped; None is its kind's own default."""

    protocol: ProtocolName = "paper"
    """Of Atari games; it means nothing to other environments."""
    resolution: int | None = None
    """Height and width of a frame. Atari: 84. Control: 100, and crops scale with it. Other environments: see
    `GymPixels`."""
    action_repeat: int | None = None
    """Steps of a control task to one of the agent's, 4 by default; it means nothing to other environments."""
    color: Color | None = None
    """Of frames. Atari: gray. Control: rgb. Other environments: see `GymPixels`."""
    render: bool = False
    """Frames are what the environment renders, whatever it observes; not for Atari and control."""
    resize: Resize | None = None
    """How screens become frames. Atari: bilinear under `paper`, area under `machado`. Other environments: area. Control
    tasks are rendered at the size of their frames, so it means nothing to them."""
    blank_at_lost_life: bool = False
    """Whether a lost life that ends an episode of an Atari game begins a new scene, as in runs of earlier versions."""


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
    """A seeded source of frames. Each frame handed out is the caller's own: it is not overwritten later.

    `terminated` and `truncated` end an episode: returns and n-step windows go no further. `new_scene` says whether the
    next episode has anything to do with the last one: only a new scene blanks the frame stack.
    """

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids and shapes."""

    def reset(self) -> Frame:
        """Begin an episode: its first frame. The first call uses the seed given at construction."""

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` began a new scene; False where a life was lost and the game goes on."""

    def step(self, action: Action) -> Step:
        """Take `action`, one of `spec.actions`. Raises RuntimeError where `reset` has to come first."""

    def close(self) -> None:
        """Let go of the emulator."""

    def state(self) -> State | None:
        """All that the trajectory goes on from; None where this kind of environment cannot be saved."""

    def restore(self, state: State) -> None:
        """Go on where `state` was taken, bit for bit, by an environment built with the same arguments but the seed.

        Raises StateError for what is no state of this environment, which is then good for nothing but `close`.
        """


def make_env(env: str, options: EnvOptions, *, seed: int, training: bool) -> Environment:
    """Build the environment that `env` names; the same arguments give the same trajectory.

    Atari under "paper": no sticky actions, 0 to 29 no-ops before a game, and in training the loss of a life ends the
    episode while the game, and with it the scene, goes on. Under "machado": sticky actions, whole games, no no-ops.
    `training` means nothing to other environments. Raises EnvError for what cannot be built (ResolutionError where
    only the resolution is in the way), ValueError for an unknown protocol.
    """
    if options.protocol not in ("paper", "machado"):
        raise ValueError(f"unknown protocol {options.protocol!r}; write paper or machado")
    env_id = resolve(env)
    _check_own_view(env_id, options)
    match env_id.kind:
        case "atari":
            from seer_edge.envs.atari import Atari

            paper = options.protocol == "paper"
            return Atari(
                env_id,
                seed=seed,
                sticky=0.0 if paper else 0.25,
                noops_max=29 if paper else 0,
                life_loss_ends=paper and training,
                resolution=options.resolution,
                resize=options.resize or ("bilinear" if paper else "area"),
                blank_at_lost_life=options.blank_at_lost_life,
            )
        case "control":
            from seer_edge.envs.control import Control

            return Control(env_id, seed=seed, action_repeat=options.action_repeat, resolution=options.resolution)
        case "gymnasium":
            from seer_edge.envs.gym_pixels import GymPixels

            return GymPixels(
                env_id,
                seed=seed,
                resolution=options.resolution,
                color=options.color,
                render=options.render,
                resize=options.resize or "area",
            )


def _check_own_view(env_id: EnvId, options: EnvOptions) -> None:
    """Raise ViewError for a view that an environment of ours does not have."""
    if env_id.kind == "gymnasium":
        return
    own: Color = "gray" if env_id.kind == "atari" else "rgb"
    if options.color not in (None, own):
        raise ViewError(f"{env_id.name} is seen in {own}, not in {options.color}", "leave --color out")
    if options.render:
        raise ViewError(f"{env_id.name} shows images by itself", "leave --render-observations out")
