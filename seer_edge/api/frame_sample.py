"""Measure how far the frames of an environment compress, before a run begins."""

import contextlib

import numpy as np

from seer_edge.envs.environment import EnvOptions
from seer_edge.envs.guarded import open_guarded
from seer_runtime.replay.block_format import BLOCK_ROWS, packed_row_bytes

SAMPLE_ROWS = 64 * BLOCK_ROWS


def sampled_row_bytes(env: str, options: EnvOptions) -> float | None:
    """Return the mean bytes of a compressed frame of random play; None if the compression library is not installed.

    Plays `SAMPLE_ROWS` steps. Raises the errors of `open_guarded`.
    """
    rng = np.random.default_rng(0)
    with contextlib.closing(open_guarded(env, options, seed=0, training=True)) as played:
        frame = played.reset()
        rows = np.empty((SAMPLE_ROWS, frame.size), np.uint8)
        for row in rows:
            row[...] = frame.reshape(-1)
            step = played.step(played.spec.actions.sample(rng))
            frame = played.reset() if step.terminated or step.truncated else step.frame
    try:
        return packed_row_bytes(rows)
    except ImportError:
        return None
