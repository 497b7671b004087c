"""Rows of K latents of one observation, and those whose elements are floats."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.codecs.codec import Array, Views
from seer_runtime.system.state import State


class Latents:
    """What all codecs of latents share: K latents `[*view_shape]` float32 a row, of which a sample decodes one."""

    one_view_a_transition = True

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int, view_bytes: int) -> None:
        self.name = name
        self.shape = (augmentations, *view_shape)
        self.view_shape = view_shape
        self.dtype = np.dtype(np.float32)
        self.view_bytes = view_bytes  # each latent begins on a byte of its own
        self.row_bytes = augmentations * view_bytes

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """`view_shape`: a latent already stands for its whole stack."""
        return self.view_shape

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Which of the K latents, `[count, 1]`."""
        if self.shape[0] == 1:
            return self.plain(count)
        return rng.integers(self.shape[0], size=(count, 1))

    def plain(self, count: int) -> Views:
        """The first latent, `[count, 1]`."""
        return np.zeros((count, 1), np.int64)

    def has_views(self, views: Views) -> bool:
        """Whether every k is below K."""
        return bool(((views >= 0) & (views < self.shape[0])).all())


class FloatCodec(Latents):
    """Each element stored as one float and decoded to float32."""

    clip_rate = None

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int) -> None:
        self.stored = np.dtype(name)
        super().__init__(name, view_shape, augmentations, math.prod(view_shape) * self.stored.itemsize)

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

    def release(self) -> None:
        """Nothing to give back."""

    def state(self) -> State:
        """Nothing was set."""
        return State()

    def restore(self, values: Mapping[str, Any]) -> None:
        """Nothing to take on."""
