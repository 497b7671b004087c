"""How one observation becomes the bytes of a row, and back.

A codec turns values `[..., *shape]` into rows `[..., row_bytes]`. Raw frames are the identity codec, so the row
store has one path for frames and latents.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]


class Codec(Protocol):
    """One observation in `row_bytes` bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of decoded values

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set the codec's parameters from real values, chunk by chunk: each `[B, *shape]`."""

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write `values` `[B, *shape]` to `rows` `[B, row_bytes]`."""

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], out: Array) -> None:
        """Decode `rows[slots]` to `out` `[*slots.shape, *shape]`, of the codec's dtype."""


class ElementCodec:
    """Each element is stored in one dtype and decoded to another; equal dtypes are a plain copy."""

    def __init__(self, name: str, shape: tuple[int, ...], stored: DTypeLike, decoded: DTypeLike) -> None:
        self.name = name
        self.shape = shape
        self.stored = np.dtype(stored)
        self.dtype = np.dtype(decoded)
        self.row_bytes = math.prod(shape) * self.stored.itemsize

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set nothing, but raise ValueError where a value is too large to store."""
        if self.stored.kind != "f" or self.stored == self.dtype:
            return
        limit = float(np.finfo(self.stored).max)
        largest = max((float(np.abs(chunk).max()) for chunk in chunks if len(chunk)), default=0.0)
        if not largest <= limit:
            raise ValueError(f"codec {self.name} stores values up to {limit:g}, a latent has {largest:g}")

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Write `values` `[B, *shape]` to `rows` `[B, row_bytes]`."""
        rows.view(self.stored)[...] = values.reshape(len(values), -1)

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], out: Array) -> None:
        """Decode `rows[slots]` to `out` `[*slots.shape, *shape]`."""
        elements = rows.view(self.stored)
        flat = out.reshape(*slots.shape, -1)
        if self.stored == self.dtype:
            # The caller's slots are in range by construction; "clip" lets numpy write to `out` unbuffered.
            np.take(elements, slots, axis=0, out=flat, mode="clip")
        else:
            flat[...] = elements[slots]


FRAMES = "identity"
"""Name of the codec of raw frames; every other codec holds latents."""


def frame_codec(shape: tuple[int, ...]) -> Codec:
    """uint8 frames as they are."""
    return ElementCodec(FRAMES, shape, np.uint8, np.uint8)


LATENT_ELEMENT_BYTES = {"float32": 4.0, "float16": 2.0}
"""Bytes of one latent element, the paper's 4 generalized (Section 4.2)."""


def latent_codec(name: str, shape: tuple[int, ...]) -> Codec:
    """The codec `name` for latents of `shape`, decoded to float32. Raises ValueError for an unknown name."""
    if name not in LATENT_ELEMENT_BYTES:
        raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(LATENT_ELEMENT_BYTES)}")
    return ElementCodec(name, shape, name, np.float32)
