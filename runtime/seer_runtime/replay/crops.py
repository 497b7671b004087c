"""Crops: the views of a frame that an agent learns from (random ones) and acts on (the center one).

Random cropping is the augmentation of CURL (Srinivas et al. 2020) and the AUG of Section 4.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Crop:
    """Views of `size` = (h, w) out of frames of `frame_size` = (H, W). Raises ValueError where none fits."""

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
        """Whether there is only one view: the frame itself."""
        return self.size == self.frame_size

    @property
    def center(self) -> Offsets:
        """Offset `[2]` (y, x) of the view that is acted on."""
        return np.array([(whole - side) // 2 for side, whole in zip(self.size, self.frame_size, strict=True)])

    def draw(self, rng: np.random.Generator, count: int) -> Offsets:
        """`count` offsets `[count, 2]`, uniform over all there are; draws nothing where there is only one."""
        if self.whole:
            return np.zeros((count, 2), np.int64)
        last = np.subtract(self.frame_size, self.size)
        return rng.integers(0, last, (count, 2), endpoint=True)

    def cut(self, frames: NDArray[np.uint8], offset: Offsets, out: NDArray[np.uint8]) -> None:
        """Copy the view at `offset` `[2]` of `frames` `[..., H, W]` to `out` `[..., h, w]`."""
        y, x = offset
        out[...] = frames[..., y : y + self.size[0], x : x + self.size[1]]
