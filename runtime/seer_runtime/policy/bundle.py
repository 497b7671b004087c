"""The bundle that goes to the board: one file that holds a policy and, on request, what it takes to learn on.

| member | |
|---|---|
| `encoder.onnx` | uint8 stacks `[B, C, h, w]` to latents `[B, N, L]` |
| `head.onnx` | latents to a Q-value an action, or to controls |
| `encoder-int8.onnx` | the same encoder in whole numbers (`--int8`) |
| `probe.safetensors` | real stacks on which a device compares the two |
| `norms.safetensors` | layer norms that an encoder's freeze freezes too, where there are any |
| `learner.safetensors` | heads, targets, optimizers, random stream (`--with learner`) |
| `replay.safetensors` | the rows of latents (`--with replay`) |
| `newest.safetensors` | latents of the observation that the newest row led to |

What the policy is stands in the container's manifest; `PolicySpec` reads the part of it that acting needs.
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
from seer_runtime.policy.preprocess import RESIZES, Resize
from seer_runtime.replay.crops import Crop
from seer_runtime.system.fields import Fields, shown

ENCODER, HEAD, NORMS = "encoder.onnx", "head.onnx", "norms.safetensors"
INT8, PROBE = "encoder-int8.onnx", "probe.safetensors"
LEARNER, REPLAY, NEWEST = "learner.safetensors", "replay.safetensors", "newest.safetensors"
EXTRAS = {"learner": LEARNER, "replay": REPLAY}
"""What `export --with` can add, and the member that says that it was."""
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
"""Of an evaluation that a manifest asks for."""


@dataclass(frozen=True)
class PolicySpec:
    """What a policy sees and does. Raises ValueError for what none can."""

    algo: str
    frame_shape: tuple[int, ...]  # (H, W) in gray, (3, H, W) in RGB, uint8
    stack: int  # frames, the oldest first, zeros before a scene's first
    crop_shape: tuple[int, int]  # the center that is acted on
    discrete: bool
    actions: int  # how many there are, or how many controls, each in [-1, 1]
    resize: Resize = "area"  # how screens become the frames that it was trained on

    def __post_init__(self) -> None:
        if len(self.frame_shape) not in (2, 3) or self.frame_shape[:-2] not in ((), (3,)):
            raise ValueError(f"frames of {self.frame_shape}")
        if max(self.frame_shape) > SIDE_MAX or not 1 <= self.stack <= STACK_MAX:
            raise ValueError(f"{self.stack} frames of {self.frame_shape} are more than a policy sees")
        _ = self.crop  # refuses one that does not fit
        if not 1 <= self.actions <= ACTIONS_MAX:
            raise ValueError(f"{self.actions} actions")

    @property
    def crop(self) -> Crop:
        """The views of a frame."""
        return Crop((self.frame_shape[-2], self.frame_shape[-1]), self.crop_shape)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """`(C, h, w)` of what the encoder reads."""
        return (self.stack * math.prod(self.frame_shape[:-2]), *self.crop_shape)

    def to_json(self) -> dict[str, Any]:
        """The part of a manifest that `of` reads."""
        actions = {"kind": "discrete", "count": self.actions}
        if not self.discrete:
            actions = {"kind": "continuous", "size": self.actions, "low": -1.0, "high": 1.0}
        return {
            "algo": self.algo,
            "observation": {
                "frame_shape": list(self.frame_shape),
                "colors": "rgb" if len(self.frame_shape) == 3 else "gray",
                "resize": self.resize,
                "stack": self.stack,
                "crop_shape": list(self.crop_shape),
                "crop": "center",
            },
            "actions": actions,
        }

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "PolicySpec":
        """What a manifest says. Raises ValueError, which names the field."""
        fields = Fields(about)
        discrete = fields.choice("actions.kind", ("discrete", "continuous")) == "discrete"
        crop_shape = fields.counts("observation.crop_shape", SIDE_MAX)
        if len(crop_shape) != 2:
            raise ValueError(f"observation.crop_shape is {shown(crop_shape)}, not height and width")
        spec = cls(
            algo=fields.text("algo"),
            frame_shape=fields.counts("observation.frame_shape", SIDE_MAX),
            stack=fields.count("observation.stack", 1, STACK_MAX),
            crop_shape=(crop_shape[0], crop_shape[1]),
            discrete=discrete,
            actions=fields.count("actions.count" if discrete else "actions.size", 1, ACTIONS_MAX),
            resize=cast(Resize, fields.choice("observation.resize", RESIZES)),
        )
        for part in ("observation", "actions"):
            told, found = spec.to_json()[part], fields.record(part)
            for key in sorted(told.keys() | found.keys()):
                if key not in told or key not in found or told[key] != found[key]:
                    raise ValueError(f"{part}.{key} is {shown(found.get(key))}, which this release does not do")
        return spec


class Bundle:
    """An open bundle, every hash of which was right."""

    def __init__(self, container: Container, spec: PolicySpec) -> None:
        self.container = container
        self.spec = spec

    @property
    def path(self) -> Path:
        """The file."""
        return self.container.path

    @property
    def about(self) -> dict[str, Any]:
        """The whole manifest; what `spec` does not have of it is still to be checked."""
        return self.container.about

    def holds(self, member: str) -> bool:
        """Whether it has that member."""
        return member in self.container.members

    def read(self, member: str) -> bytes:
        """The bytes of a member, the ones that were checked. Raises CorruptFileError and OSError."""
        return self.container.read(member)

    def arrays(self, member: str, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """The tensors of a member, of them those that are `wanted`. Raises as `read`."""
        tensors = self.container.tensors(member)
        names = [name for name in tensors.names if wanted is None or name in wanted]
        arrays = {name: np.empty(tensors.shapes[name], tensors.dtypes[name]) for name in names}
        for name, array in arrays.items():
            tensors.read_into(name, array)
        return arrays


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open `path`. Raises CorruptFileError for what is not a bundle of this release, and OSError."""
    with open_container(path, MEMBER_BYTES_MAX) as container:
        try:
            spec = PolicySpec.of(container.about)
        except ValueError as error:
            raise CorruptFileError(path, f"its manifest describes no policy: {one_line(error)}") from error
        yield Bundle(container, spec)
