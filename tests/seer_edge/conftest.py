"""Fixtures of the tests of seer_edge."""

import pytest
import torch

from tests.seer_edge.camera_rig import open_camera
from tests.seer_edge.freeze_rig import build_rig, rig

__all__ = ["build_rig", "open_camera", "rig"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
