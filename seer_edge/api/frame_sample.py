"""Measure how far the frames of an environment compress, before a run begins."""

import contextlib
import logging
import time

import numpy as np

from seer_edge.envs.environment import EnvOptions
from seer_edge.envs.guarded import open_guarded
from seer_runtime.replay.block_format import BLOCK_ROWS, packed_row_bytes

LOG = logging.getLogger(__name__)
SAMPLE_ROWS = 64 * BLOCK_ROWS
SECONDS_MAX = 10.0


def sampled_row_bytes(env: str, options: EnvOptions, total_timesteps: int) -> float | None:
    """Return the mean bytes of a compressed frame of random play; None if the compression library is not installed.

    Plays `SAMPLE_ROWS` steps, or those of a shorter run, for at most `SECONDS_MAX`. Raises the errors of
    `open_guarded`.
    """
    count = min(SAMPLE_ROWS, -(-total_timesteps // BLOCK_ROWS) * BLOCK_ROWS)
    LOG.info("playing %d random steps to see how far frames compress", count)
    rng, until = np.random.default_rng(0), time.monotonic() + SECONDS_MAX
    with contextlib.closing(open_guarded(env, options, seed=0, training=True)) as played:
        frame = played.reset()
        rows, played_rows = np.empty((count, frame.size), np.uint8), 0
        while played_rows < count and (played_rows % BLOCK_ROWS or not played_rows or time.monotonic() < until):
            rows[played_rows] = frame.reshape(-1)
            step = played.step(played.spec.actions.sample(rng))
            frame = played.reset() if step.terminated or step.truncated else step.frame
            played_rows += 1
    try:
        return packed_row_bytes(rows[:played_rows])
    except ImportError:
        return None
