"""The interface of an environment, and the data that goes through it."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.actions import Action, Actions
from seer_runtime.policy.actions import OwnActions
from seer_runtime.policy.pictures import Picture
from seer_runtime.policy.preprocess import Color, Resize
from seer_runtime.system.state import State

Frame = NDArray[np.uint8]
SEEDS = 2**31
"""Seeds of environments are below this number, because many simulators take them as a C int. Atari and control tasks,
whose results must not change, take seeds below 2**32."""
ProtocolName = Literal["paper", "machado"]


@dataclass(frozen=True)
class EnvSpec:
    """Ids, shapes and action space of an environment."""

    id: str
    """The resolved id, which `make_env` accepts again, such as "ALE/Alien-v5"."""
    name: str
    """A short name for run folders and presets, such as "Alien"."""
    frame_shape: tuple[int, ...]
    """Shape of one frame: `(H, W)` in gray, or `(3, H, W)` in RGB."""
    crop_shape: tuple[int, int]
    """Height and width that the learner crops frames to; those of the frame where it does not crop."""
    actions: Actions
    process_bytes: int = field(default=0, compare=False)
    """Measured memory of the emulator or renderer in this process, in bytes; 0 where it was not measured."""
    as_registered: bool = field(default=False, compare=False)
    """Whether Gymnasium builds and steps it as registered, so that protocol and action repeat do not apply."""
    resize: Resize = "area"
    """The interpolation that turns screens into frames."""
    own_actions: OwnActions | None = field(default=None, compare=False)
    """How the environment numbers or bounds its actions; None where they equal `actions`."""
    picture: Picture | None = field(default=None, compare=False)
    """The picture in the environment's observations; None where they are screens."""


@dataclass(frozen=True)
class EnvOptions:
    """Options for the frames and steps of an environment. None selects the default of its kind."""

    protocol: ProtocolName = "paper"
    """Protocol of Atari games; other environments ignore it."""
    resolution: int | None = None
    """Height and width of a frame in pixels. Defaults: 84 for Atari, 100 for control tasks, where crops scale with
    it. For other environments see `GymPixels`."""
    action_repeat: int | None = None
    """Environment steps in one agent step of a control task, 4 by default; other environments ignore it."""
    color: Color | None = None
    """Color of frames. Atari has gray only, control rgb only. For other environments see `GymPixels`."""
    render: bool = False
    """Whether frames are rendered images instead of observations. Not for Atari and control tasks."""
    resize: Resize | None = None
    """The interpolation that turns screens into frames. Atari's default is bilinear under `paper` and area under
    `machado`; that of other environments is area. Control tasks ignore it, because they render at the frame size."""
    blank_at_lost_life: bool = False
    """Whether a lost life that ends an Atari episode starts a new scene, as in runs of earlier versions."""
    obs_key: str | None = None
    """The picture in the observations, where these are a dictionary. Nested keys are written "outer/inner"."""
    kwargs: dict[str, Any] | None = None
    """Arguments for the environment, as JSON values. Atari has those of `ATARI_KWARGS`, control tasks have none."""
    gray_levels: int | None = None
    """How many gray levels frames are reduced to, one of `GRAY_LEVELS`. Frames keep all 256 by default. `make_env`
    reduces the frames of every environment."""


@dataclass(frozen=True)
class Episode:
    """A finished episode: the sum of its raw rewards, and its length in agent steps. For Atari it is a whole game."""

    episode_return: float
    length_steps: int


@dataclass(frozen=True, eq=False)
class Step:
    """The result of one agent step.

    `frame` is uint8 of shape `frame_shape`, and `reward` is raw. At most one of `terminated` and `truncated` is true;
    after either one the caller must call `reset`. `episode` is set when an episode has finished, on Atari when the
    game is over, but not when a life is lost.
    """

    frame: Frame
    reward: float
    terminated: bool
    truncated: bool
    episode: Episode | None
    action: Action | None = None
    """The agent's action that was executed, where it was not the one that was given."""
    discard: bool = False
    """Whether nothing can be learned from this step, for example because a person moved the robot."""


class Playable(Protocol):
    """Something that can be played step by step. It never overwrites a frame that it has returned.

    `terminated` and `truncated` end an episode, and with it returns and n-step windows. `new_scene` says whether the
    next episode starts from an unrelated screen. Only a new scene blanks the frame stack.
    """

    @property
    def spec(self) -> EnvSpec:
        """The environment's ids, shapes and action space."""

    def reset(self) -> Frame:
        """Start an episode and return its first frame. The first call uses the seed given at construction."""

    @property
    def new_scene(self) -> bool:
        """Whether the last `reset` started a new scene. False after a lost life, where the game continues."""

    def step(self, action: Action) -> Step:
        """Take `action`, an element of `spec.actions`. Raises RuntimeError where `reset` must be called first."""


class Environment(Playable, Protocol):
    """A seeded environment."""

    def close(self) -> None:
        """Release the emulator or renderer."""

    def state(self) -> State | None:
        """Return the complete state of the trajectory, or None where this kind of environment cannot be saved."""

    def restore(self, state: State) -> None:
        """Continue from `state`, bit for bit.

        `state` must come from an environment that was built with the same arguments; only the seed may differ. Raises
        StateError for an invalid state. After that only `close` may be called.
        """
