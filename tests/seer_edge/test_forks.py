"""Settings of forks: what they inherit from the parent, and what they may change."""

import pytest

from seer_edge.api.forks import Beginning, config_of_fork
from seer_edge.config.request import ForkRequest
from seer_edge.errors import BadInputError
from tests.seer_edge.configs import atari_config, control_config


def test_a_fork_that_never_freezes_drops_the_layers_that_its_parent_would_freeze() -> None:
    parent = control_config(total_timesteps=1_000, freeze_at=500, freeze_layers=2)
    begin = Beginning("RUN", parent, 400, None)
    fork = config_of_fork(begin, ForkRequest.of(freeze_at="never"))
    assert (fork.freeze_at, fork.freeze_layers) == (None, None)
    assert config_of_fork(begin, ForkRequest.of(freeze_at=600)).freeze_layers == 2


def test_a_fork_cannot_store_several_views_of_frames_that_are_not_cropped() -> None:
    begin = Beginning("RUN", atari_config(total_timesteps=1_000), 100, None)
    with pytest.raises(BadInputError, match=r"^--augmentations 4: Alien is not cropped; leave it out$"):
        config_of_fork(begin, ForkRequest.of(augmentations=4))
    assert config_of_fork(begin, ForkRequest.of(augmentations=1)).augmentations == 1
