"""SEER on small computers: train vision agents inside a byte budget."""

__version__ = "0.1.0"
