"""The protocol that every codec implements for the row store."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.state import State

Array = NDArray[Any]
Views = NDArray[np.int64]
"""One view for each observation: crop offsets (y, x) `[B, 2]`, or latent indices k `[B, 1]`."""


class Codec(Protocol):
    """Encodes an observation to `row_bytes` bytes and decodes views of it."""

    name: str
    shape: tuple[int, ...]  # shape of an observation that is encoded to a row
    view_shape: tuple[int, ...]  # shape of a view that is decoded from a row
    dtype: np.dtype[Any]  # dtype of both
    same_view_for_next: bool  # whether s and s' of a transition are decoded under the same view

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""

    @property
    def clip_rate(self) -> float | None:
        """The fraction of encoded elements that were clipped, or None if the codec never clips."""

    def observation_shape(self, stack: int) -> tuple[int, ...]:
        """Return the shape of the agent's observation if `stack` rows form one observation."""

    def calibrate(self, chunks: Iterable[Array]) -> None:
        """Set the parameters of the codec from real values, given in chunks of shape `[B, *view_shape]`."""

    def encode(self, values: Array, rows: NDArray[np.uint8]) -> None:
        """Encode `values` `[B, *shape]` to `rows` uint8 `[B, row_bytes]`."""

    def draw(self, rng: np.random.Generator, count: int) -> Views:
        """Return random views for `count` observations. If there is only one view, do not advance `rng`."""

    def plain(self, count: int) -> Views:
        """Return the default view `count` times: the center of a frame, or the first latent of a row."""

    def has_views(self, views: Views) -> bool:
        """Whether `draw` can return all of `views`."""

    def gather(self, rows: NDArray[np.uint8], slots: NDArray[np.int64], views: Views, out: Array) -> None:
        """Decode `views` `[B, …]` of the rows at `slots` `[B, S]` to `out` `[B, S, *view_shape]`.

        The S slots of a stack are consecutive, except where the ring of rows wraps around.
        """

    def release(self) -> None:
        """Release the memory of the codec from the ledger."""

    def state(self) -> State:
        """Return the calibrated parameters and the counters. The arrays are the codec's own memory."""

    def restore(self, values: Mapping[str, Any]) -> None:
        """Set the counters to the values of a state. The caller has filled the arrays of `state()` before.

        Raises ValueError if the values or arrays are invalid.
        """
