"""The codec of raw frames."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.codecs.codec import Array, Views
from seer_runtime.replay.crops import Crop
from seer_runtime.system.state import State

FRAMES = "identity"
"""Name of the codec of raw frames. Every other codec stores latents."""


class FrameCodec:
    """Stores uint8 frames `[H, W]` or `[channels, H, W]` unchanged and decodes crops of them."""

    name = FRAMES
    same_view_for_next = False
    clip_rate = None

    def __init__(self, shape: tuple[int, ...], crop: Crop) -> None:
        self.shape = shape
        self.view_shape = (*shape[:-2], *crop.size)
        self.dtype = np.dtype(np.uint8)
        self.row_bytes = math.prod(shape)
        self.crop = crop

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """Return `(stack * channels, h, w)`. The oldest frame comes first."""
        return (stack * math.prod(self.shape[:-2]), *self.crop.size)

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Do nothing."""

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Copy frames `[B, *shape]` to `rows` `[B, row_bytes]`."""
        rows[...] = values.reshape(len(values), -1)

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Return random crop offsets `[count, 2]`."""
        return self.crop.draw(rng, count)

    def plain(self, count: int) -> Views:
        """Return the offset of the center crop, `[count, 2]`."""
        return np.tile(self.crop.center, (count, 1))

    def has_views(self, views: Views) -> bool:
        """Whether every crop is inside the frame."""
        room = np.subtract(self.shape[-2:], self.crop.size)
        return bool(((views >= 0) & (views <= room)).all())

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Copy the crops to `out`. All frames of one stack have the same offset."""
        if self.crop.whole:
            # The slots are always in range. With mode="clip", numpy writes to `out` without a buffer.
            np.take(rows, slots, axis=0, out=out.reshape(*slots.shape, -1), mode="clip")
            return
        frames = rows.reshape(-1, *self.shape)
        for stack, offset, target in zip(slots.tolist(), views, out, strict=True):
            if stack[-1] - stack[0] == len(stack) - 1:
                self.crop.cut(frames[stack[0] : stack[-1] + 1], offset, target)
                continue
            for slot, view in zip(stack, target, strict=True):  # the ring wraps around inside the stack
                self.crop.cut(frames[slot], offset, view)

    def release(self) -> None:
        """Do nothing."""

    def state(self) -> State:
        """Return an empty state."""
        return State()

    def restore(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""
