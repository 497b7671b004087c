"""Fixtures of the learner's tests."""

import pytest
import torch

from tests.seer_edge.freeze_rig import rig

__all__ = ["rig"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
