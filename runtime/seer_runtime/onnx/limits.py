"""Limits of the graphs that `check` accepts. Imports nothing."""

KERNEL_MAX = 16
"""Largest side and stride of a window."""

FILTERS_STEP = 16
"""Filters come in multiples of this number. ONNX Runtime may store feature maps in blocks of 16 channels, and a single
filter would then take the memory of 16."""
