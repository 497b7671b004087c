"""Configurations in `config.json`: they are read back unchanged, and malformed ones are refused."""

import dataclasses
import json
from typing import Any

import pytest

from seer_edge.config.build import build_config
from seer_edge.config.config import TrainConfig
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.envs import Discrete, EnvSpec
from seer_edge.errors import BadInputError
from seer_runtime.policy.preprocess import RESIZES
from tests.seer_edge.configs import atari_config, control_config


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"freeze_at": "never", "seed": 2**32 - 1, "replay": "prioritized", "protocol": "machado"},
        {"freeze_at": 7, "total_timesteps": 9, "latent_codec": "uint4", "encoder": "canonical", "threads": 3},
        {"eval_every": 1, "eval_episodes": 2, "mem_budget_bytes": 123_456_789, "device": "cuda", "preset": "Qbert"},
        {"freeze_layers": 1, "resolution": 42},
        {"source": "runs/other"},
    ],
)
def test_a_configuration_survives_json(given: dict[str, Any]) -> None:
    config = atari_config(**given)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"algo": "sac", "resolution": 50, "augmentations": 15, "freeze_layers": 4, "encoder": "impala"},
        {"source": "runs/walker-stand", "latent_codec": "float16"},
        {"latent_codec": "auto"},
        {"freeze_at": "never", "replay": "prioritized"},
    ],
)
def test_a_configuration_of_control_survives_json(given: dict[str, Any]) -> None:
    config = control_config("cheetah-run", **given)
    read = TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read == config
    assert isinstance(read.settings, SacSettings)
    assert read.settings.log_std_range == (-10.0, 2.0)
    assert isinstance(read.settings.log_std_range, tuple)


def test_a_configuration_records_how_frames_are_resized_and_blanked() -> None:
    for resize in RESIZES:
        spec = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18), resize=resize)
        config = build_config(spec)
        assert (config.resize, config.blank_at_lost_life) == (resize, False)
        data = json.loads(json.dumps(config.to_json()))
        read = TrainConfig.from_json(data)
        assert (read.env_options.resize, read.env_options.blank_at_lost_life) == (resize, False)
        for name in ("resize", "blank_at_lost_life"):
            del data[name]
        before = TrainConfig.from_json(data)
        assert (before.env_options.resize, before.env_options.blank_at_lost_life) == ("area", True)


@pytest.mark.parametrize("levels", [None, 16, 32, 64])
def test_a_configuration_records_the_gray_levels_of_frames(levels: int | None) -> None:
    config = atari_config(gray_levels=levels)
    data = json.loads(json.dumps(config.to_json()))
    assert TrainConfig.from_json(data) == config
    assert config.env_options.gray_levels == levels
    del data["gray_levels"]
    assert TrainConfig.from_json(data).gray_levels is None


def test_settings_that_are_not_the_presets_survive_json() -> None:
    settings = RainbowSettings(batch_size=7, n_step=3, value_range=(-1.5, 2.0), learning_rate=0.1, gamma=0.9)
    config = dataclasses.replace(atari_config(), settings=settings, log_every=17)
    read = TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read == config
    assert isinstance(read.settings, RainbowSettings)
    assert read.settings.value_range == (-1.5, 2.0)
    assert isinstance(read.settings.value_range, tuple)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "3"},
        {"settings": None},
        {"settings": {"batch_size": 32}},
        {"settings": {**dataclasses.asdict(RainbowSettings()), "colour": "red"}},
        {"settings": {"features": 50}},
        {"algo": "curl-sac"},
        {"algo": "dqn"},
        {"mem_budget_bytes": None},
        {"colour": "red"},
        {"replay": "newest"},
        {"resize": "cubic"},
        {"gray_levels": 8},
        {"gray_levels": "32"},
        {"gray_levels": 32.0},
        {"blank_at_lost_life": 1},
        {"total_timesteps": 0},
    ],
)
def test_a_malformed_config_json_is_refused(change: dict[str, Any]) -> None:
    data = {**json.loads(json.dumps(atari_config().to_json())), **change}
    with pytest.raises(BadInputError):
        TrainConfig.from_json(data)


def test_a_config_json_with_the_agent_of_a_plugin_suggests_to_load_it() -> None:
    line = "config.json: --algo mine: choose one of rainbow, .*, or load the module that adds it with --plugin"
    with pytest.raises(BadInputError, match=line):
        TrainConfig.from_json({**atari_config().to_json(), "algo": "mine"})


@pytest.mark.parametrize("missing", ["env", "freeze_at", "settings", "total_timesteps", "algo", "seed", "resolution"])
def test_a_config_json_without_an_entry_is_refused(missing: str) -> None:
    data = atari_config().to_json()
    del data[missing]
    with pytest.raises(BadInputError, match=f"config.json: .*{missing}"):
        TrainConfig.from_json(data)


def _assert_edited_is_refused(config: TrainConfig, name: str, value: Any) -> None:
    data = json.loads(json.dumps(config.to_json()))
    *inside, last = name.split(".")
    (data[inside[0]] if inside else data)[last] = value
    with pytest.raises(BadInputError, match=rf"config\.json.*{last}"):
        TrainConfig.from_json(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.5),
        ("action_repeat", 0),
        ("seed", True),
        ("threads", 1.5),
        ("device", None),
        ("env", 5),
        ("eval_episodes", 2.5),
        ("freeze_at", "soon"),
        ("settings.stack", 4.0),
        ("settings.value_range", [1]),
        ("settings.value_range", ["a", "b"]),
        ("settings.evaluation_epsilon", "x"),
        ("settings.evaluation_epsilon", 7),
    ],
)
def test_an_edited_configuration_with_a_wrong_value_is_refused(name: str, value: Any) -> None:
    _assert_edited_is_refused(atari_config(), name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolution", "50"),
        ("algo", "sac"),
        ("action_repeat", 2.5),
        ("freeze_layers", "all"),
        ("augmentations", None),
        ("source", 3),
        ("settings.contrastive", 1),
        ("settings.features", 50.5),
        ("settings.log_std_range", [-10.0]),
        ("settings.initial_temperature", "warm"),
    ],
)
def test_an_edited_configuration_of_control_with_a_wrong_value_is_refused(name: str, value: Any) -> None:
    _assert_edited_is_refused(control_config(), name, value)
