"""Statistics of latents, and how many of their elements each latent codec clips."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.codecs import LATENT_CODECS, latent_codec

CALIBRATION_ROWS = 1_024
"""As at the freeze."""


@dataclass(frozen=True)
class LatentStatistics:
    """Latents of many observations at one step.

    Attributes:
        step: the step of the weights.
        dimensions: number of elements of a latent.
        dead: dimensions that have the same value for all observations.
        low, high: the smallest and the largest value of all.
        mean, std: of all values.
        widest, median_width: the largest and the median range of a dimension.
        clip_rates: by codec, the fraction of elements of other observations than those that it was calibrated on that
            are outside its ranges; None for a codec that never clips, or that cannot store these latents.

    """

    step: int
    dimensions: int
    dead: int
    low: float
    high: float
    mean: float
    std: float
    widest: float
    median_width: float
    clip_rates: dict[str, float | None]


def latent_statistics(step: int, latents: NDArray[np.float32], filled: NDArray[np.bool_]) -> LatentStatistics:
    """Return the statistics of `latents` `[rows, N, L]`, of at least two observations.

    `filled` `[rows]` marks the observations whose frame stack is full, on which codecs are calibrated.
    """
    flat = latents.reshape(len(latents), -1)
    width = flat.max(axis=0) - flat.min(axis=0)
    calibrating, held_out = _split(filled)
    return LatentStatistics(
        step=step,
        dimensions=flat.shape[1],
        dead=int(np.count_nonzero(width == 0)),
        low=float(flat.min()),
        high=float(flat.max()),
        mean=float(flat.mean(dtype=np.float64)),
        std=float(flat.std(dtype=np.float64)),
        widest=float(width.max()),
        median_width=float(np.median(width)),
        clip_rates={name: _clip_rate(name, latents[calibrating], latents[held_out]) for name in LATENT_CODECS},
    )


def _split(filled: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return up to `CALIBRATION_ROWS` evenly spaced observations to calibrate on, and the others.

    Latents of stacks with blank frames would make every range too wide, so they are used only if there are no others.
    """
    usable = np.flatnonzero(filled) if np.count_nonzero(filled) > 1 else np.arange(len(filled))
    stride = max(2, math.ceil(len(usable) / CALIBRATION_ROWS))
    calibrating = usable[::stride]
    return calibrating, np.setdiff1d(np.arange(len(filled)), calibrating)


def _clip_rate(name: str, calibrating: NDArray[Any], held_out: NDArray[Any]) -> float | None:
    codec = latent_codec(name, held_out.shape[1:])
    try:
        codec.calibrate([calibrating])
        with np.errstate(over="ignore"):
            codec.encode(held_out[:, None], np.zeros((len(held_out), codec.row_bytes), np.uint8))
        return codec.clip_rate
    except ValueError:
        return None
    finally:
        codec.release()
