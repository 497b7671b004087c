"""Crops: the agent learns from random crops of a frame and acts on the center crop.

Random cropping is the augmentation of CURL (Srinivas et al. 2020), and AUG in Section 4.2 of SEER (Chen et al. 2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Crop:
    """Crops of `size` = (h, w) from frames of `frame_size` = (H, W). Raises ValueError if the size does not fit."""

    frame_size: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if not all(1 <= side <= whole for side, whole in zip(self.size, self.frame_size, strict=True)):
            raise ValueError(
                f"a crop of {self.size[0]}x{self.size[1]} does not fit a frame of "
                f"{self.frame_size[0]}x{self.frame_size[1]}"
            )

    @property
    def whole(self) -> bool:
        """Whether the crop is the whole frame."""
        return self.size == self.frame_size

    @property
    def center(self) -> Offsets:
        """Offset (y, x) of the center crop, int64 `[2]`."""
        return np.array([(whole - side) // 2 for side, whole in zip(self.size, self.frame_size, strict=True)])

    def draw(self, rng: np.random.Generator, count: int) -> Offsets:
        """Return random offsets, int64 `[count, 2]`, uniform over all that fit.

        If the crop is the whole frame, this does not advance `rng`.
        """
        if self.whole:
            return np.zeros((count, 2), np.int64)
        last = np.subtract(self.frame_size, self.size)
        return rng.integers(0, last, (count, 2), endpoint=True)

    def cut(self, frames: NDArray[np.uint8], offset: Offsets, out: NDArray[np.uint8]) -> None:
        """Copy the crop at `offset` `[2]` from `frames` uint8 `[..., H, W]` to `out` uint8 `[..., h, w]`."""
        y, x = offset
        out[...] = frames[..., y : y + self.size[0], x : x + self.size[1]]
