"""The memory that an encoder's inputs take in the heap of a training process, and how the inputs lie in it."""

import os
import subprocess
import sys

import pytest

from seer_edge.networks.encoder import ALIGNMENT
from seer_edge.networks.spec import ENCODERS, encoder_spec
from tests.seer_edge.encoder_rig import new_encoder, random_observations

# The inputs of two batches are in use at a time, in two slices each, as with the pipeline.
GROWTH = """
import torch
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.spec import encoder_spec
from seer_runtime.system.process import anon_bytes, bound_heap
bound_heap()
torch.set_num_threads(1)
encoder = Encoder(encoder_spec("data-efficient", input_shape=(12, 84, 84)), torch.Generator().manual_seed(0))
frames = torch.zeros((16, 12, 84, 84), dtype=torch.uint8)
encoder.pixels(frames[:1])
before, held = anon_bytes(), []
for _ in range(60):
    held = held[-4:] + [encoder.pixels(frames) for _ in range(4)]
print((anon_bytes() - before) / sum(pixels.nbytes for pixels in held))
"""


def test_the_heap_reuses_the_memory_of_earlier_inputs() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", GROWTH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 1.9  # 2.3 with memory that torch allocates, on glibc before 2.38


@pytest.mark.parametrize("name", ENCODERS)
def test_inputs_are_aligned_as_the_tensors_of_torch_are(name: str) -> None:
    encoder = new_encoder(encoder_spec(name, input_shape=(4, 84, 84)))
    held = [encoder.pixels(random_observations(encoder.spec, batch)) for batch in (1, 2, 3, 5)]
    assert [pixels.data_ptr() % ALIGNMENT for pixels in held] == [0, 0, 0, 0]
