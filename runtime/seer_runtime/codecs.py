"""How one observation becomes the bytes of a row, and back.

A row holds several *views* of its observation and a sample decodes one of them: of a frame the views are its crops, of
latents the K that were encoded. So the row store has one path for frames and latents.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.crops import Crop

Array = NDArray[Any]
Views = NDArray[np.int64]
"""One view an observation, `[B, …]`: the offset (y, x) of a crop, or the number k of a latent."""


class Codec(Protocol):
    """One observation in `row_bytes` bytes."""

    name: str
    shape: tuple[int, ...]  # of what a row is given
    view_shape: tuple[int, ...]  # of what is decoded from a row
    dtype: np.dtype[Any]  # of both
    one_view_a_transition: bool  # whether s and s' of a transition are seen under the same view

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """Of what an agent is given when `stack` rows make one observation."""

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set the codec's parameters from real values, chunk by chunk: each `[B, *view_shape]`."""

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write `values` `[B, *shape]` to `rows` `[B, row_bytes]`."""

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Random views for `count` observations; draws nothing where there is only one."""

    def plain(self, count: int) -> Views:
        """The view to compare and to act on, `count` times: a frame's center, a row's first latent."""

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode `views` `[B, …]` of `rows[slots]` to `out` `[B, S, *view_shape]`.

        The S slots of a stack, `slots` `[B, S]`, follow one another around the ring.
        """


FRAMES = "identity"
"""Name of the codec of raw frames; every other codec holds latents."""


class FrameCodec:
    """uint8 frames `[H, W]` or `[channels, H, W]` as they are, decoded under `crop`."""

    name = FRAMES
    one_view_a_transition = False

    def __init__(self, shape: tuple[int, ...], crop: Crop) -> None:
        self.shape = shape
        self.view_shape = (*shape[:-2], *crop.size)
        self.dtype = np.dtype(np.uint8)
        self.row_bytes = math.prod(shape)
        self.crop = crop

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """Channels of all frames, the oldest first: `(stack * channels, h, w)`."""
        return (stack * math.prod(self.shape[:-2]), *self.crop.size)

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Nothing to set."""

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write frames `[B, *shape]` to `rows` `[B, row_bytes]`."""
        rows[...] = values.reshape(len(values), -1)

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Random offsets `[count, 2]`."""
        return self.crop.draw(rng, count)

    def plain(self, count: int) -> Views:
        """The center's offset, `[count, 2]`."""
        return np.tile(self.crop.center, (count, 1))

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Copy crops; the frames of one stack all under the same offset."""
        if self.crop.whole:
            # The caller's slots are in range by construction; "clip" lets numpy write to `out` unbuffered.
            np.take(rows, slots, axis=0, out=out.reshape(*slots.shape, -1), mode="clip")
            return
        frames = rows.reshape(-1, *self.shape)
        for stack, offset, target in zip(slots.tolist(), views, out, strict=True):
            if stack[-1] - stack[0] == len(stack) - 1:
                self.crop.cut(frames[stack[0] : stack[-1] + 1], offset, target)
                continue
            for slot, view in zip(stack, target, strict=True):  # the ring's end lies inside the stack
                self.crop.cut(frames[slot], offset, view)


LATENT_ELEMENT_BYTES = {"float32": 4.0, "float16": 2.0}
"""Bytes of one latent element, the paper's 4 generalized (Section 4.2)."""


class FloatCodec:
    """K latents of one observation, each element stored as one float and decoded to float32."""

    one_view_a_transition = True

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int) -> None:
        self.name = name
        self.shape = (augmentations, *view_shape)
        self.view_shape = view_shape
        self.dtype = np.dtype(np.float32)
        self.stored = np.dtype(name)
        self.row_bytes = math.prod(self.shape) * self.stored.itemsize

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """`view_shape`: a latent already stands for its whole stack."""
        return self.view_shape

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set nothing, but raise ValueError where a value is too large to store."""
        if self.stored == self.dtype:
            return
        limit = float(np.finfo(self.stored).max)
        largest = max((float(np.abs(chunk).max()) for chunk in chunks if len(chunk)), default=0.0)
        if not largest <= limit:
            raise ValueError(f"codec {self.name} stores values up to {limit:g}, a latent has {largest:g}")

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write latents `[B, K, *view_shape]` to `rows` `[B, row_bytes]`."""
        rows.view(self.stored)[...] = values.reshape(len(values), -1)

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Which of the K latents, `[count, 1]`."""
        if self.shape[0] == 1:
            return self.plain(count)
        return rng.integers(self.shape[0], size=(count, 1))

    def plain(self, count: int) -> Views:
        """The first latent, `[count, 1]`."""
        return np.zeros((count, 1), np.int64)

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode one latent a row."""
        augmentations = self.shape[0]
        latents = rows.view(self.stored).reshape(len(rows) * augmentations, -1)
        picked = slots * augmentations + views
        flat = out.reshape(*slots.shape, -1)
        if self.stored == self.dtype:
            np.take(latents, picked, axis=0, out=flat, mode="clip")
        else:
            flat[...] = latents[picked]


def frame_codec(shape: tuple[int, ...], crop_size: tuple[int, int] | None = None) -> FrameCodec:
    """Raw frames of `shape`, seen whole or under crops of `crop_size`. Raises ValueError for a crop that is larger."""
    height, width = shape[-2:]
    return FrameCodec(shape, Crop((height, width), crop_size or (height, width)))


def latent_codec(name: str, view_shape: tuple[int, ...], augmentations: int = 1) -> Codec:
    """The codec `name` for K = `augmentations` latents of `view_shape` a row. Raises ValueError for an unknown name."""
    if name not in LATENT_ELEMENT_BYTES:
        raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(LATENT_ELEMENT_BYTES)}")
    return FloatCodec(name, view_shape, augmentations)
