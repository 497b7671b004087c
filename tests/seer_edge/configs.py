"""Configurations of Atari games and of control tasks for tests."""

from typing import Any

from seer_edge.config.build import build_config
from seer_edge.config.config import TrainConfig
from seer_edge.envs import Continuous, Discrete, EnvSpec


def atari_config(game: str = "Alien", **given: Any) -> TrainConfig:
    return build_config(EnvSpec(f"ALE/{game}-v5", game, (84, 84), (84, 84), Discrete(18)), **given)


def control_config(task: str = "cartpole-swingup", **given: Any) -> TrainConfig:
    return build_config(EnvSpec(f"dm_control/{task}-v0", task, (3, 100, 100), (84, 84), Continuous(2)), **given)
