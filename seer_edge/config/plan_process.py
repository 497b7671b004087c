"""The memory of a run's process that the plan cannot count line by line, as it was measured."""

import math

from seer_edge.config.plan_replay import FLOAT_BYTES
from seer_edge.networks.spec import EncoderSpec

# Interpreter, imports, and what a long run adds. The plan counts everything else, and the environment's own memory,
# line by line. For Alien in 0.07GB `tools/rssbench.py causes` prints 220 MB as "everything else", and runs of 100,000
# steps on frames needed up to 254 MB (docs/results/evidence). Below a budget of 2MB the imports are the peak, 285 MB.
PROCESS_BASE_BYTES = 258_000_000
# The same for anonymous memory: `rssbench.py causes` prints 163 MB as "everything else, anonymous". An evaluation from
# frames adds up to 16 MB (`rssbench.py watch`, Alien in 14.2MB, 2,060 steps with learning_starts=2000).
ANON_BASE_BYTES = 184_000_000
# An update holds each element of its observations so many times as float32: both observations of a row, and copies of
# them in the order in which PyTorch computes. Decision 22 has the measurements.
INPUT_FACTOR = 3.3


def update_bytes(encoder: EncoderSpec, batch_size: int, map_factor: float) -> int:
    """Return about how many bytes an update from `batch_size` rows of frames takes at its peak.

    `map_factor` is that of the algorithm (see `Algorithm`).
    """
    elements = INPUT_FACTOR * math.prod(encoder.input_shape) + map_factor * encoder.map_elements
    return round(batch_size * elements * FLOAT_BYTES)
