"""The sizes that screens may be resized to."""

from seer_edge.envs.names import ResolutionError

RESOLUTION_MIN = 16
RESOLUTION_MAX = 210
"""The height of an Atari screen."""


def pixel_size(resolution: int) -> tuple[int, int]:
    """Height and width of a square frame. Raises ResolutionError outside 16 to 210."""
    if not RESOLUTION_MIN <= resolution <= RESOLUTION_MAX:
        raise ResolutionError(
            f"resolution {resolution} is too far from a screen's: give {RESOLUTION_MIN} to {RESOLUTION_MAX}"
        )
    return resolution, resolution
