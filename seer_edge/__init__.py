"""SEER on small computers: train vision agents inside a byte budget."""

from seer_edge.version import __version__

__all__ = ["__version__"]
