"""Which of a bundle's two encoders runs on this device: the int8 one where it is faster and near enough."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.encoder import OnnxEncoder

ERROR_MAX = 0.03
"""Root mean square of the difference of latents, of that of the latents themselves."""
ROUNDS = 30


@dataclass(frozen=True)
class EncoderChoice:
    """What was measured on real stacks, one at a time; the medians."""

    float_seconds: float
    int8_seconds: float
    error: float

    @property
    def int8(self) -> bool:
        """Whether the int8 encoder runs."""
        return self.error <= ERROR_MAX and self.int8_seconds < self.float_seconds

    def __str__(self) -> str:
        return (
            f"encoder {'int8' if self.int8 else 'float32'}: int8 {self.int8_seconds * 1e3:.3f} ms, "
            f"float32 {self.float_seconds * 1e3:.3f} ms, error {self.error:.2%} (at most {ERROR_MAX:.0%})"
        )


def compare(exact: OnnxEncoder, rounded: OnnxEncoder, stacks: NDArray[np.uint8]) -> EncoderChoice:
    """Time both and compare their latents on `stacks` `[n, C, h, w]`, in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS):
        at = index % len(stacks)
        for encoder, taken in zip((exact, rounded), seconds, strict=True):
            begin = time.perf_counter()
            encoder(stacks[at : at + 1])
            taken.append(time.perf_counter() - begin)
    medians = [float(np.median(taken)) for taken in seconds]
    return EncoderChoice(medians[0], medians[1], latent_error(exact, rounded, stacks))


def latent_error(exact: OnnxEncoder, rounded: OnnxEncoder, stacks: NDArray[np.uint8]) -> float:
    """See `ERROR_MAX`; infinite where one of them gives nothing but zeros, or no number."""
    wrong = right = 0.0
    for stack in stacks:
        wanted = exact(stack[None]).astype(np.float64)
        right += float(np.square(wanted).sum())
        wrong += float(np.square(rounded(stack[None]) - wanted).sum())
    error = float(np.sqrt(wrong / right)) if right > 0 else np.inf
    return error if np.isfinite(error) else np.inf
