"""Fixtures of the tests of seer_edge."""

from collections.abc import Iterator

import pytest
import torch

from seer_edge.envs.isolation import Isolation
from tests.seer_edge.camera_rig import open_camera
from tests.seer_edge.freeze_rig import build_rig, rig

__all__ = ["build_rig", "open_camera", "rig"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def release_generators() -> Iterator[None]:
    """Return the random generators to the tests. They do not close every environment, which would do so."""
    yield
    if Isolation._loaded is not None:
        Isolation._loaded.release()
