"""The range of frame sizes for environments whose screens are resized."""

from seer_edge.envs.names import ResolutionError

RESOLUTION_MIN = 16
RESOLUTION_MAX = 210
"""The height of an Atari screen, in pixels."""


def pixel_size(resolution: int) -> tuple[int, int]:
    """Return height and width of a square frame. Raises ResolutionError unless `resolution` is 16 to 210."""
    if not RESOLUTION_MIN <= resolution <= RESOLUTION_MAX:
        raise ResolutionError(
            f"resolution {resolution} is out of range; use {RESOLUTION_MIN} to {RESOLUTION_MAX} pixels"
        )
    return resolution, resolution
