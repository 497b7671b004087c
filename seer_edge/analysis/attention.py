"""Spatial attention maps of convolutional layers (Section 5.5, as in Zagoruyko & Komodakis 2017)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def attention_maps(maps: NDArray[Any]) -> NDArray[np.float32]:
    """Return the spatial attention `[B, H, W]` of activations `[B, channels, H, W]`; each map sums to 1.

    It is the softmax over all positions of the mean absolute activation of the channels.
    """
    strength = np.abs(maps).mean(axis=1, dtype=np.float64)
    weights = np.exp(strength - strength.max(axis=(1, 2), keepdims=True))
    attention: NDArray[np.float32] = (weights / weights.sum(axis=(1, 2), keepdims=True)).astype(np.float32)
    return attention
