"""What every codec is to the row store."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.state import State

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

    @property
    def clip_rate(self) -> float | None:
        """The share of all elements encoded that lay outside what can be stored; None for a codec without limits."""

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

    def has_views(self, views: Views) -> bool:
        """Whether all of `views` are some that `draw` can give."""

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode `views` `[B, …]` of `rows[slots]` to `out` `[B, S, *view_shape]`.

        The S slots of a stack, `slots` `[B, S]`, follow one another around the ring.
        """

    def release(self) -> None:
        """Give its memory back to the ledger."""

    def state(self) -> State:
        """What `calibrate` set and what was counted since; the arrays are the codec's own memory."""

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take on the values that `state` gave, its arrays having been filled. Raises ValueError for anything else."""
