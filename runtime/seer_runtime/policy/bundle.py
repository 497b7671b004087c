"""The bundle: one file with a policy for deployment and, optionally, the data to continue learning.

| member | content |
|---|---|
| `encoder.onnx` | the encoder: stacks uint8 `[B, C, h, w]` to latents float32 `[B, N, L]` |
| `head.onnx` | the head: latents to Q-values, or to a continuous action |
| `encoder-int8.onnx` | the encoder with int8 convolutions (`--int8`) |
| `probe.safetensors` | real stacks, on which a device compares the two encoders |
| `norms.safetensors` | layer norms that the freeze froze together with the encoder, if any |
| `learner.safetensors` | heads, target networks, optimizers, random generator (`--with learner`) |
| `replay.safetensors` | the latent rows of the replay (`--with replay`) |
| `newest.safetensors` | latents of the observation that followed the newest row |

The manifest of the container describes the policy. `PolicySpec` is the part of it that acting needs.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable.container import Container, open_container
from seer_runtime.durable.files import CorruptFileError, one_line
from seer_runtime.onnx.check import FILE_BYTES_MAX
from seer_runtime.policy.actions import Bounded, Numbered, OwnActions, read_own_actions
from seer_runtime.policy.pictures import Picture, read_picture
from seer_runtime.policy.preprocess import GRAY_LEVELS, RESIZES, Frame, Resize, to_frame, to_gray_levels
from seer_runtime.replay.crops import Crop
from seer_runtime.system.manifest_reader import ManifestReader, shown

ENCODER, HEAD, NORMS = "encoder.onnx", "head.onnx", "norms.safetensors"
INT8, PROBE = "encoder-int8.onnx", "probe.safetensors"
LEARNER, REPLAY, NEWEST = "learner.safetensors", "replay.safetensors", "newest.safetensors"
EXTRAS = {"learner": LEARNER, "replay": REPLAY}
"""The values of `export --with`, and the member that each one adds."""
MEMBER_BYTES_MAX = {
    ENCODER: FILE_BYTES_MAX,
    HEAD: FILE_BYTES_MAX,
    INT8: FILE_BYTES_MAX,
    PROBE: 2**24,
    NORMS: 2**20,
    LEARNER: 2**30,
    REPLAY: 2**40,
    NEWEST: 2**24,
}

SIDE_MAX, STACK_MAX, ACTIONS_MAX = 1024, 64, 65_536
EPISODES_MAX = 100_000
"""Limit on the episodes of an evaluation that a manifest requests."""


@dataclass(frozen=True)
class PolicySpec:
    """The observations and actions of a policy. Raises ValueError for invalid values."""

    algo: str
    frame_shape: tuple[int, ...]  # uint8, (H, W) in gray or (3, H, W) in RGB
    stack: int  # number of frames, the oldest first; frames before the first of a scene are zero
    crop_shape: tuple[int, int]  # (h, w) of the center crop that the policy acts on
    discrete: bool
    actions: int  # number of discrete actions, or of components in [-1, 1] of a continuous action
    resize: Resize = "area"  # how screens were resized to frames in training
    own_actions: OwnActions | None = None  # what the environment takes; None where it takes the policy's actions
    gray_levels: int | None = None  # that frames were reduced to in training; None where they kept all 256
    picture: Picture | None = None  # what the environment observes; None where that is a screen, or was not recorded

    def __post_init__(self) -> None:
        if len(self.frame_shape) not in (2, 3) or self.frame_shape[:-2] not in ((), (3,)):
            raise ValueError(f"the frame shape {self.frame_shape} is neither (H, W) nor (3, H, W)")
        if max(self.frame_shape) > SIDE_MAX or not 1 <= self.stack <= STACK_MAX:
            raise ValueError(
                f"a stack of {self.stack} frames {self.frame_shape} is outside the limits: "
                f"1 to {STACK_MAX} frames with sides up to {SIDE_MAX}"
            )
        _ = self.crop  # raises if the crop does not fit
        if not 1 <= self.actions <= ACTIONS_MAX:
            raise ValueError(f"the number of actions is {self.actions}, not from 1 to {ACTIONS_MAX:,}")
        own = self.own_actions
        fits = isinstance(own, Numbered) if self.discrete else isinstance(own, Bounded) and len(own.low) == self.actions
        if own is not None and not fits:
            raise ValueError(f"the environment's actions are {own}, which does not fit those of the policy")
        if self.gray_levels not in (None, *GRAY_LEVELS):
            choices = ", ".join(map(str, GRAY_LEVELS))
            raise ValueError(f"observation.gray_levels is {self.gray_levels}, not one of {choices}")

    def own(self, action: Any) -> Any:
        """Return the environment's own action for an action of the policy: an index from 0, or controls in [-1, 1]."""
        return action if self.own_actions is None else self.own_actions.own(action)

    def to_frame(self, observation: Any) -> Frame:
        """Convert an observation of the environment, a screen, a pair of screens or a frame to a frame.

        Frames are uint8 of `frame_shape`, reduced to the gray levels of training. `Picture.to_frame` says what is an
        observation. Raises ValueError for anything else.
        """
        if self.picture is None:
            frame = to_frame(observation, self.frame_shape, self.resize)
        else:
            frame = self.picture.to_frame(observation, self.frame_shape, self.resize)
        return frame if self.gray_levels is None else to_gray_levels(frame, self.gray_levels)

    @property
    def crop(self) -> Crop:
        """The crop of a frame."""
        return Crop((self.frame_shape[-2], self.frame_shape[-1]), self.crop_shape)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of the encoder's input."""
        return (self.stack * math.prod(self.frame_shape[:-2]), *self.crop_shape)

    def to_json(self) -> dict[str, Any]:
        """Return the part of the manifest that `of` reads."""
        actions: dict[str, Any] = {"kind": "discrete", "count": self.actions}
        if not self.discrete:
            actions = {"kind": "continuous", "size": self.actions, "low": -1.0, "high": 1.0}
        if self.own_actions is not None:
            actions |= self.own_actions.to_json()
        observation: dict[str, Any] = {
            "frame_shape": list(self.frame_shape),
            "colors": "rgb" if len(self.frame_shape) == 3 else "gray",
            "resize": self.resize,
            "stack": self.stack,
            "crop_shape": list(self.crop_shape),
            "crop": "center",
        }
        if self.picture is not None:
            observation["picture"] = self.picture.to_json()
        if self.gray_levels is not None:  # earlier releases reject the field, because they would ignore it
            observation["gray_levels"] = self.gray_levels
        return {"algo": self.algo, "observation": observation, "actions": actions}

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "PolicySpec":
        """Read the specification from the manifest `about`. Raises ValueError that names the invalid field."""
        fields = ManifestReader(about)
        discrete = fields.choice("actions.kind", ("discrete", "continuous")) == "discrete"
        crop_shape = fields.counts("observation.crop_shape", SIDE_MAX)
        if len(crop_shape) != 2:
            raise ValueError(f"observation.crop_shape is {shown(crop_shape)}, not height and width")
        count = fields.count("actions.count" if discrete else "actions.size", 1, ACTIONS_MAX)
        reduced = "gray_levels" in fields.record("observation")
        spec = cls(
            algo=fields.text("algo"),
            frame_shape=fields.counts("observation.frame_shape", SIDE_MAX),
            stack=fields.count("observation.stack", 1, STACK_MAX),
            crop_shape=(crop_shape[0], crop_shape[1]),
            discrete=discrete,
            actions=count,
            resize=cast(Resize, fields.choice("observation.resize", RESIZES)),
            own_actions=read_own_actions(fields.record("actions"), count),
            gray_levels=fields.count("observation.gray_levels") if reduced else None,
            picture=read_picture(fields.record("observation"), "observation"),
        )
        for part in ("observation", "actions"):
            supported, found = spec.to_json()[part], fields.record(part)
            for key in sorted(supported.keys() | found.keys()):
                if key not in supported or key not in found or supported[key] != found[key]:
                    raise ValueError(f"{part}.{key} is {shown(found.get(key))}, which this release does not support")
        return spec


class Bundle:
    """An open bundle with verified hashes. Valid only inside the `open_bundle` block."""

    def __init__(self, container: Container, spec: PolicySpec) -> None:
        self.container = container
        self.spec = spec

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.container.path

    @property
    def about(self) -> dict[str, Any]:
        """The whole manifest. Fields that are not part of `spec` are unchecked."""
        return self.container.about

    def holds(self, member: str) -> bool:
        """Whether the bundle contains `member`."""
        return member in self.container.members

    def read(self, member: str) -> bytes:
        """Return the verified bytes of a member. Raises CorruptFileError if it is missing or changed, and OSError."""
        return self.container.read(member)

    def arrays(self, member: str, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the tensors of a member by name: all of them, or those in `wanted`. Raises as `read`."""
        tensors = self.container.tensors(member)
        names = [name for name in tensors.names if wanted is None or name in wanted]
        arrays = {name: np.empty(tensors.shapes[name], tensors.dtypes[name]) for name in names}
        for name, array in arrays.items():
            tensors.read_into(name, array)
        return arrays


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Context manager: open the bundle at `path` and verify its hashes.

    Raises CorruptFileError if the file is not a valid bundle of this release, and OSError.
    """
    with open_container(path, MEMBER_BYTES_MAX) as container:
        try:
            spec = PolicySpec.of(container.about)
        except ValueError as error:
            raise CorruptFileError(path, f"the manifest describes no valid policy: {one_line(error)}") from error
        yield Bundle(container, spec)
