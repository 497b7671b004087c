"""Pictures of attention maps: one column for each observation, one row for each snapshot, the frames on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.reports.drawing import STYLE, pyplot, save_png

CELL_INCHES, GAP = 1.5, 0.06
"""Size of a cell, and the gap between two as a fraction of it."""


def write_attention(
    path: Path, title: str, frames: Sequence[NDArray[Any]], maps: NDArray[Any], steps: Sequence[int]
) -> None:
    """Write the `maps` `[steps, observations, H, W]` of one layer as a PNG, below the `frames` of the observations.

    Each map has colors from its own least to its own largest value. Raises OSError.
    """
    plt = pyplot()
    height, width = frames[0].shape[:2]
    gap = round(GAP * max(height, width))
    lines, columns = len(steps) + 1, len(frames)
    canvas = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    colors = plt.get_cmap("viridis")
    for column, frame in enumerate(frames):
        cells = [_brightened(frame), *(_colored(one, colors, height, width) for one in maps[:, column])]
        for line, cell in enumerate(cells):
            top, left = line * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = cell
    with plt.rc_context({**STYLE, "axes.grid": False}):
        size = CELL_INCHES * columns + 0.9, CELL_INCHES * height / width * lines + 0.4
        drawn, axes = plt.subplots(figsize=size, layout="constrained")
        axes.imshow(canvas, interpolation="nearest")
        places = [line * (height + gap) + height / 2 for line in range(lines)]
        axes.set_yticks(places, ["frame", *(f"step {step:,}" for step in steps)])
        axes.set(xticks=[], frame_on=False)
        axes.tick_params(length=0)
        drawn.suptitle(title)
        save_png(drawn, path)


def _brightened(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a frame uint8 as `[h, w, 3]`, scaled to its largest value: the frames of games can be dark."""
    scaled = (frame * (255 / max(1, int(frame.max())))).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _colored(attention: NDArray[Any], colors: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return an attention map `[H, W]` in colors, uint8 `[height, width, 3]`, enlarged without smoothing."""
    low, high = attention.min(), attention.max()
    scaled = (attention - low) / max(high - low, np.finfo(np.float32).tiny)
    rows, columns = (np.arange(size) * count // size for size, count in zip((height, width), scaled.shape, strict=True))
    enlarged = scaled[rows][:, columns]
    result: NDArray[np.uint8] = colors(enlarged, bytes=True)[..., :3]
    return result
