"""Pictures of attention maps: one column for each observation, one row for each snapshot, the frames on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from seer_edge.reports.drawing import PNG_DPI, STYLE, pyplot

CELL_INCHES = 1.5


def write_attention(
    path: Path, title: str, frames: Sequence[NDArray[Any]], maps: NDArray[Any], steps: Sequence[int]
) -> None:
    """Write the `maps` `[steps, observations, H, W]` of one layer as a PNG, below the `frames` of the observations.

    Each map has colours from its own least to its own largest value. Raises OSError.
    """
    plt = pyplot()
    size = (CELL_INCHES * len(frames) + 0.9, CELL_INCHES * (len(steps) + 1) + 0.5)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        drawn, grid = plt.subplots(len(steps) + 1, len(frames), figsize=size, layout="constrained", squeeze=False)
        height, width = frames[0].shape[:2]
        for column, frame in enumerate(frames):
            grid[0, column].imshow(frame, cmap="gray", vmin=0, vmax=max(1, int(frame.max())))  # games can be dark
            for row in range(len(steps)):
                # In pixels of the frame, so that maps of all sizes line up with it.
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                grid[row + 1, column].imshow(maps[row, column], cmap="viridis", extent=extent, interpolation="nearest")
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[], frame_on=False)
        for row, label in enumerate(["frame", *(f"step {step:,}" for step in steps)]):
            grid[row, 0].set_ylabel(label)
        drawn.suptitle(title)
        try:
            drawn.savefig(path, dpi=PNG_DPI)
        finally:
            plt.close(drawn)
