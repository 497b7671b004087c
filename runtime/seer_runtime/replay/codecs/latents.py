"""The common base of all latent codecs, and the codec that stores latents as floats."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.codecs.codec import Array, Views
from seer_runtime.system.state import State


class Latents:
    """Base class of latent codecs. A row stores K latents, float32 `[*view_shape]`; a sample decodes one of them."""

    same_view_for_next = True

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int, view_bytes: int) -> None:
        self.name = name
        self.shape = (augmentations, *view_shape)
        self.view_shape = view_shape
        self.dtype = np.dtype(np.float32)
        self.view_bytes = view_bytes  # a whole number of bytes per latent
        self.row_bytes = augmentations * view_bytes

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """Return `view_shape`, because a latent encodes its whole stack."""
        return self.view_shape

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Return random indices of the K latents, `[count, 1]`."""
        if self.shape[0] == 1:
            return self.plain(count)
        return rng.integers(self.shape[0], size=(count, 1))

    def plain(self, count: int) -> Views:
        """Return the index of the first latent, `[count, 1]`."""
        return np.zeros((count, 1), np.int64)

    def has_views(self, views: Views) -> bool:
        """Whether every index is from 0 to K - 1."""
        return bool(((views >= 0) & (views < self.shape[0])).all())


class FloatCodec(Latents):
    """Stores each element as float32 or float16 and decodes it to float32."""

    clip_rate = None

    def __init__(self, name: str, view_shape: tuple[int, ...], augmentations: int) -> None:
        self.stored = np.dtype(name)
        super().__init__(name, view_shape, augmentations, math.prod(view_shape) * self.stored.itemsize)

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Raise ValueError if a value is too large for the stored dtype. There are no parameters to set."""
        if self.stored == self.dtype:
            return
        limit = float(np.finfo(self.stored).max)
        largest = max((float(np.abs(chunk).max()) for chunk in chunks if len(chunk)), default=0.0)
        if not largest <= limit:
            raise ValueError(f"codec {self.name} stores values up to {limit:g}, but a latent has {largest:g}")

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Encode latents `[B, K, *view_shape]` to `rows` `[B, row_bytes]`."""
        rows.view(self.stored)[...] = values.reshape(len(values), -1)

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode one latent per row to `out`."""
        augmentations = self.shape[0]
        latents = rows.view(self.stored).reshape(len(rows) * augmentations, -1)
        picked = slots * augmentations + views
        flat = out.reshape(*slots.shape, -1)
        if self.stored == self.dtype:
            np.take(latents, picked, axis=0, out=flat, mode="clip")
        else:
            flat[...] = latents[picked]

    def release(self) -> None:
        """Do nothing."""

    def state(self) -> State:
        """Return an empty state."""
        return State()

    def restore(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""
