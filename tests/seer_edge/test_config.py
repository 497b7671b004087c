"""Configurations and presets: Table 3, the freezing times, the round trip through JSON, and bad values."""

import dataclasses
import json
from typing import Any

import pytest

from seer_edge.config import TrainConfig, build_config, resolve_freeze_at
from seer_edge.errors import BadInputError
from seer_edge.presets import ATARI, DEFAULT, RainbowSettings, preset_for

# Table 3: freezing times in Figure 3 (a replay of the whole run) and in Figure 4 (one of 10,000 frames).
TABLE_3 = {
    "Alien": (50_000, 100_000),
    "Amidar": (50_000, 50_000),
    "BankHeist": (50_000, 50_000),
    "CrazyClimber": (100_000, 100_000),
    "Krull": (50_000, 50_000),
    "Qbert": (100_000, 100_000),
    "RoadRunner": (50_000, 50_000),
    "Seaquest": (50_000, 150_000),
}
FRAME_BYTES = 7_056
WHOLE_RUN_BYTES = 500_000 * FRAME_BYTES


def _config(game: str = "Alien", **given: Any) -> TrainConfig:
    return build_config(env=f"ALE/{game}-v5", env_name=game, frame_bytes=FRAME_BYTES, **given)


# --- presets -----------------------------------------------------------------------------------------------


def test_presets_are_the_eight_games_of_table_3() -> None:
    presets = {preset.name: (preset.freeze_at_whole, preset.freeze_at_bounded) for preset in ATARI.values()}
    assert presets == TABLE_3


@pytest.mark.parametrize("game", TABLE_3)
def test_a_presets_run_freezes_at_the_figures_step(game: str) -> None:
    whole, bounded = TABLE_3[game]
    config = _config(game)
    assert (config.preset, config.freeze_at) == (game, bounded)
    assert "does not hold the whole run" in config.freeze_reason
    assert (config.mem_budget_bytes, config.total_timesteps) == (70_000_000, 500_000)
    large = _config(game, mem_budget_bytes=WHOLE_RUN_BYTES)
    assert large.freeze_at == whole
    assert "holds the whole run" in large.freeze_reason
    assert _config(game, mem_budget_bytes=WHOLE_RUN_BYTES - 1).freeze_at == bounded


def test_hyperparameters_are_table_3s() -> None:
    for preset in (*ATARI.values(), DEFAULT):
        rainbow = preset.rainbow
        assert (rainbow.batch_size, rainbow.n_step, rainbow.gamma, rainbow.stack, rainbow.hidden) == (
            32,
            20,
            0.99,
            4,
            256,
        )
        assert (rainbow.learning_starts, rainbow.target_update_steps) == (1_600, 2_000)
        assert (preset.evaluate_every, preset.evaluation_episodes) == (10_000, 10)
        assert preset.encoder == "data-efficient"
        # Not Table 3's 1e-3: the released scripts'.
        assert rainbow.learning_rate == 1e-4
        assert (rainbow.adam_epsilon, rainbow.noisy_sigma, rainbow.max_gradient_norm) == (1.5e-4, 0.1, 10.0)
        assert (rainbow.atoms, rainbow.value_range, rainbow.evaluation_epsilon) == (51, (-10.0, 10.0), 0.001)


def test_other_games_get_the_default() -> None:
    assert preset_for("Pong") is DEFAULT
    assert preset_for("BANKHEIST").name == "BankHeist"
    config = _config("Pong")
    assert (config.preset, config.freeze_at) == ("default", 100_000)
    assert _config("Pong", mem_budget_bytes=WHOLE_RUN_BYTES).freeze_at == 50_000
    borrowed = _config("Pong", preset="Seaquest")
    assert (borrowed.preset, borrowed.freeze_at, borrowed.env_name) == ("Seaquest", 150_000, "Pong")


# --- the freezing time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "freeze_at"),
    [(500_000, 100_000), (250_000, 100_000), (249_999, 99_999), (30_000, 12_000), (5, 2), (1, 1)],
)
def test_a_short_run_freezes_at_40_percent(total: int, freeze_at: int) -> None:
    step, reason = resolve_freeze_at(None, ATARI["alien"], total_timesteps=total, frame_capacity=0)
    assert step == freeze_at
    assert ("40 %" in reason) == (total < 250_000)


def test_the_40_percent_rule_looks_at_the_time_that_would_hold() -> None:
    """200,000 steps are 2.5 times 80,000: short for Figure 4's 100,000, long for Figure 3's 50,000."""
    assert _config(total_timesteps=200_000).freeze_at == 80_000
    assert _config(total_timesteps=200_000, mem_budget_bytes=200_000 * FRAME_BYTES).freeze_at == 50_000


def test_a_given_step_is_taken_as_it_is() -> None:
    assert (_config(freeze_at=123).freeze_at, _config(freeze_at=123).freeze_reason) == (123, "--freeze-at")
    assert _config(freeze_at=500_000).freeze_at == 500_000
    assert _config(freeze_at="never").freeze_at is None
    assert _config(freeze_at="never").freeze_reason == "--freeze-at never"


def test_a_freeze_beyond_the_end_is_refused() -> None:
    with pytest.raises(
        BadInputError, match="--freeze-at 500001: the run ends at step 500000; give an earlier step, or never"
    ):
        _config(freeze_at=500_001)
    with pytest.raises(BadInputError, match="--freeze-at 20"):
        _config(freeze_at=20, total_timesteps=19)


@pytest.mark.parametrize("total", [*range(1, 60), 124_999, 125_000, 374_999, 375_000])
@pytest.mark.parametrize("game", ["Alien", "Seaquest", "Pong"])
def test_only_a_given_step_can_be_beyond_the_end(game: str, total: int) -> None:
    for budget in (None, WHOLE_RUN_BYTES):
        freeze_at = _config(game, total_timesteps=total, mem_budget_bytes=budget).freeze_at
        assert freeze_at is not None
        assert 1 <= freeze_at <= total


# --- JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"freeze_at": "never", "seed": 2**32 - 1, "replay": "prioritized", "protocol": "machado"},
        {"freeze_at": 7, "total_timesteps": 9, "latent_codec": "float16", "encoder": "canonical", "threads": 3},
        {"eval_every": 1, "eval_episodes": 2, "mem_budget_bytes": 123_456_789, "device": "cuda", "preset": "Qbert"},
    ],
)
def test_a_configuration_survives_json(given: dict[str, Any]) -> None:
    config = _config(**given)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_settings_that_are_not_the_presets_survive_json() -> None:
    rainbow = RainbowSettings(batch_size=7, n_step=3, value_range=(-1.5, 2.0), learning_rate=0.1, gamma=0.9)
    config = dataclasses.replace(_config(), rainbow=rainbow, log_every=17)
    read = TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read == config
    assert read.rainbow.value_range == (-1.5, 2.0)
    assert isinstance(read.rainbow.value_range, tuple)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "3"},
        {"rainbow": None},
        {"rainbow": {"batch_size": 32}},
        {"mem_budget_bytes": None},
        {"colour": "red"},
        {"replay": "newest"},
        {"total_timesteps": 0},
    ],
)
def test_a_spoilt_config_json_is_refused(change: dict[str, Any]) -> None:
    data = {**json.loads(json.dumps(_config().to_json())), **change}
    with pytest.raises(BadInputError):
        TrainConfig.from_json(data)


@pytest.mark.parametrize("missing", ["env", "freeze_at", "rainbow", "total_timesteps"])
def test_a_config_json_without_an_entry_is_refused(missing: str) -> None:
    data = _config().to_json()
    del data[missing]
    with pytest.raises(BadInputError, match=f"config.json: .*{missing}"):
        TrainConfig.from_json(data)


# --- bad values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("mem_budget_bytes", 0, "--mem-budget 0"),
        ("mem_budget_bytes", -1, "--mem-budget -1"),
        ("total_timesteps", 0, "--total-timesteps 0"),
        ("freeze_at", 0, "--freeze-at 0"),
        ("freeze_at", -5, "--freeze-at -5"),
        ("threads", 0, "--threads 0"),
        ("eval_every", 0, "--eval-every 0"),
        ("eval_every", -3, "--eval-every -3"),
        ("eval_episodes", 0, "--eval-episodes 0"),
        ("seed", -1, "--seed -1"),
        ("seed", 2**32, "--seed 4294967296"),
        ("protocol", "strict", "--protocol strict"),
        ("replay", "newest", "--replay newest"),
        ("encoder", "impala", "--encoder impala"),
        ("encoder", "", "--encoder "),
        ("latent_codec", "uint8", "--latent-codec uint8"),
    ],
)
def test_a_bad_value_is_named_with_its_flag_and_a_mend(name: str, value: Any, flag: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        _config(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{flag}: ")
    assert "give " in message or "choose " in message
    assert "\n" not in message


def test_a_bad_log_interval_is_named() -> None:
    with pytest.raises(BadInputError, match="log_every 0: give a whole number of at least 1"):
        dataclasses.replace(_config(), log_every=0)


def test_a_bad_choice_is_answered_with_the_choices() -> None:
    with pytest.raises(BadInputError, match="choose one of uniform, prioritized"):
        _config(replay="newest")
    with pytest.raises(BadInputError, match="choose one of data-efficient, canonical"):
        _config(encoder="impala")


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"batch_size": 0}, "batch_size"), ({"n_step": 0}, "n_step"), ({"stack": 0}, "stack"), ({"gamma": 1.1}, "gamma")],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RainbowSettings(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1.5),
        ("seed", True),
        ("threads", 1.5),
        ("device", None),
        ("env", 5),
        ("eval_episodes", 2.5),
        ("freeze_at", "soon"),
        ("rainbow.stack", 4.0),
        ("rainbow.value_range", [1]),
        ("rainbow.value_range", ["a", "b"]),
        ("rainbow.evaluation_epsilon", "x"),
        ("rainbow.evaluation_epsilon", 7),
    ],
)
def test_an_edited_configuration_with_a_wrong_value_is_refused(name: str, value: Any) -> None:
    data = json.loads(json.dumps(_config().to_json()))
    *inside, last = name.split(".")
    (data[inside[0]] if inside else data)[last] = value
    with pytest.raises(BadInputError, match=rf"config\.json.*{last}"):
        TrainConfig.from_json(data)
