"""Choose between a bundle's float32 and int8 encoders on this device: int8 if it is faster and accurate enough."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.encoder import OnnxEncoder

ERROR_MAX = 0.03
"""Limit on the relative error of the int8 latents: the RMS of their difference over the RMS of the float32 latents."""
ROUNDS = 30


@dataclass(frozen=True)
class EncoderChoice:
    """The measurements behind the choice: median seconds per stack of each encoder, and the relative error."""

    float_seconds: float
    int8_seconds: float
    error: float

    @property
    def int8(self) -> bool:
        """Whether to use the int8 encoder."""
        return self.error <= ERROR_MAX and self.int8_seconds < self.float_seconds

    def __str__(self) -> str:
        return (
            f"encoder {'int8' if self.int8 else 'float32'}: int8 {self.int8_seconds * 1e3:.3f} ms, "
            f"float32 {self.float_seconds * 1e3:.3f} ms, error {self.error:.2%} (at most {ERROR_MAX:.0%})"
        )


def compare(float32: OnnxEncoder, int8: OnnxEncoder, stacks: NDArray[np.uint8]) -> EncoderChoice:
    """Time both encoders alternately on `stacks` uint8 `[n, C, h, w]`, and compare their latents."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS):
        at = index % len(stacks)
        for encoder, times in zip((float32, int8), seconds, strict=True):
            begin = time.perf_counter()
            encoder(stacks[at : at + 1])
            times.append(time.perf_counter() - begin)
    medians = [float(np.median(times)) for times in seconds]
    return EncoderChoice(medians[0], medians[1], latent_error(float32, int8, stacks))


def latent_error(float32: OnnxEncoder, int8: OnnxEncoder, stacks: NDArray[np.uint8]) -> float:
    """Return the relative error of the int8 latents, as in `ERROR_MAX`.

    Return infinity if the float32 latents are all zero or the error is not finite.
    """
    squared_error = squared_norm = 0.0
    for stack in stacks:
        latents = float32(stack[None]).astype(np.float64)
        squared_norm += float(np.square(latents).sum())
        squared_error += float(np.square(int8(stack[None]) - latents).sum())
    error = float(np.sqrt(squared_error / squared_norm)) if squared_norm > 0 else np.inf
    return error if np.isfinite(error) else np.inf
