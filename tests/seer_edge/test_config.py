"""Configurations: values of the preset, the freezing time, the round trip through JSON, and bad values."""

import dataclasses
import json
from typing import Any

import pytest

from seer_edge.config.config import MAX_AUGMENTATIONS, TrainConfig, build_config
from seer_edge.config.freeze_step import freeze_fields
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.config.registry import preset_for
from seer_edge.envs import Continuous, Discrete, EnvSpec
from seer_edge.errors import BadInputError
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.policy.preprocess import RESIZES

FRAME_BYTES = 7_056
WHOLE_RUN_BYTES = 500_000 * FRAME_BYTES
ALIEN = preset_for("Alien", "rainbow")


def _config(game: str = "Alien", **given: Any) -> TrainConfig:
    return build_config(EnvSpec(f"ALE/{game}-v5", game, (84, 84), (84, 84), Discrete(18)), **given)


def _control(task: str = "cartpole-swingup", **given: Any) -> TrainConfig:
    return build_config(EnvSpec(f"dm_control/{task}-v0", task, (3, 100, 100), (84, 84), Continuous(2)), **given)


# --- agent and preset --------------------------------------------------------------------------------------


def test_the_agent_follows_from_the_actions() -> None:
    assert (_config().algo, _config().preset, _config().settings) == ("rainbow", "Alien", RainbowSettings())
    control = _control("walker-walk")
    assert (control.algo, control.preset, control.settings) == ("curl-sac", "walker-walk", SacSettings())
    assert _control("hopper-stand").preset == "control"
    assert _config("Pong").preset == "default"


def test_sac_is_curl_sac_without_the_contrastive_loss() -> None:
    curl, plain = _control("cheetah-run"), _control("cheetah-run", algo="sac")
    assert (curl.algo, curl.settings.contrastive) == ("curl-sac", True)
    assert (plain.algo, plain.settings.contrastive) == ("sac", False)
    assert dataclasses.replace(plain, algo="curl-sac", settings=curl.settings) == curl


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (_control, {"algo": "rainbow"}, "--algo rainbow: cartpole-swingup has continuous actions; .*curl-sac or sac$"),
        (_config, {"algo": "curl-sac"}, "--algo curl-sac: Alien has discrete actions; use --algo rainbow or dqn"),
        (_config, {"algo": "sac"}, "--algo sac: Alien has discrete actions; use --algo rainbow or dqn"),
        (_control, {"preset": "Alien"}, "--preset Alien: cartpole-swingup has continuous actions; .*curl-sac or sac"),
        (
            _config,
            {"preset": "walker-walk"},
            "--preset walker-walk: Alien has discrete actions; use --algo rainbow",
        ),
        (
            _control,
            {"preset": "Alien", "algo": "sac"},
            "--preset Alien: is a preset of rainbow, not of sac; name another or leave it",
        ),
        (
            _config,
            {"preset": "walker-walk", "algo": "rainbow"},
            "--preset walker-walk: is a preset of curl-sac or sac, not of rainbow; name",
        ),
    ],
)
def test_an_agent_or_preset_for_other_actions_is_refused(build: Any, given: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build(**given)


def test_given_values_override_the_preset() -> None:
    preset = _control("cheetah-run")
    assert (preset.augmentations, preset.encoder, preset.action_repeat, preset.eval_every) == (4, "sac-ae", 4, 10_000)
    given = {"augmentations": 2, "encoder": "impala", "eval_every": 7, "eval_episodes": 3, "mem_budget_bytes": 10**7}
    config = _control("cheetah-run", **given)
    assert {name: getattr(config, name) for name in given} == given
    assert (config.action_repeat, config.settings) == (4, preset.settings)


# --- augmentations -----------------------------------------------------------------------------------------


def test_k_crops_and_the_center_are_encoded_in_one_call() -> None:
    assert MAX_AUGMENTATIONS + 1 == MAX_BATCH == 16
    assert [_control(augmentations=k).augmentations for k in (1, 15, None)] == [1, 15, 4]
    for k in (0, -1, 16):
        with pytest.raises(BadInputError, match=f"--augmentations {k}: give 1 to 15"):
            _control(augmentations=k)


def test_a_frame_that_is_seen_whole_has_one_view() -> None:
    assert _config().augmentations == _config(augmentations=1).augmentations == 1
    for k in (0, 2, 4):
        with pytest.raises(BadInputError, match=f"--augmentations {k}: Alien is not cropped; leave it out"):
            _config(augmentations=k)


# --- layers and transfer -----------------------------------------------------------------------------------


def test_layers_are_frozen_only_where_there_is_a_freeze() -> None:
    assert _control(freeze_layers=2).freeze_layers == 2
    with pytest.raises(BadInputError, match="--freeze-layers 2: --freeze-at never freezes nothing"):
        _control(freeze_layers=2, freeze_at="never")


def test_an_imported_encoder_is_frozen_from_step_0() -> None:
    config = _control(source="runs/x")
    assert (config.freeze_at, config.source, config.freeze_reason) == (0, "runs/x", "--from")
    assert _control(source="runs/x", freeze_layers=4).freeze_layers == 4
    for codec in ("float16", "uint8", "uint4"):  # imported rows bring their quantization ranges
        assert _control(source="runs/x", latent_codec=codec).latent_codec == codec
    with pytest.raises(BadInputError, match="--latent-codec auto: needs rows of frames"):
        _control(source="runs/x", latent_codec="auto")
    for freeze_at in (5, 10**9, "never"):
        with pytest.raises(
            BadInputError, match=f"--freeze-at {freeze_at}: the encoder of --from is frozen from step 0"
        ):
            _control(source="runs/x", freeze_at=freeze_at)


# --- the freezing time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "freeze_at"),
    [(500_000, 100_000), (250_000, 100_000), (249_999, 99_999), (30_000, 12_000), (5, 2), (1, 1)],
)
def test_a_short_run_freezes_at_40_percent(total: int, freeze_at: int) -> None:
    freeze = freeze_fields(None, ALIEN, None, total_timesteps=total, frame_capacity=0)
    step, reason = freeze["freeze_at"], freeze["freeze_reason"]
    assert step == freeze_at
    assert ("40 %" in reason) == (total < 250_000)


def test_the_40_percent_rule_compares_with_the_freeze_step_of_the_budget() -> None:
    """200,000 steps are 2.5 times 80,000: short for Figure 4's 100,000, long for Figure 3's 50,000."""
    assert _config(total_timesteps=200_000).freeze_at == 80_000
    assert _config(total_timesteps=200_000, mem_budget_bytes=200_000 * FRAME_BYTES).freeze_at == 50_000


def test_a_given_freeze_step_is_used_unchanged() -> None:
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
        {"freeze_at": 7, "total_timesteps": 9, "latent_codec": "uint4", "encoder": "canonical", "threads": 3},
        {"eval_every": 1, "eval_episodes": 2, "mem_budget_bytes": 123_456_789, "device": "cuda", "preset": "Qbert"},
        {"freeze_layers": 1, "resolution": 42},
        {"source": "runs/other"},
    ],
)
def test_a_configuration_survives_json(given: dict[str, Any]) -> None:
    config = _config(**given)
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
    config = _control("cheetah-run", **given)
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
    config = _config(gray_levels=levels)
    data = json.loads(json.dumps(config.to_json()))
    assert TrainConfig.from_json(data) == config
    assert config.env_options.gray_levels == levels
    del data["gray_levels"]
    assert TrainConfig.from_json(data).gray_levels is None


@pytest.mark.parametrize("levels", [0, 8, 33, 256])
def test_other_numbers_of_gray_levels_are_refused(levels: int) -> None:
    with pytest.raises(BadInputError, match=f"--gray-levels {levels}: choose one of 16, 32, 64"):
        _config(gray_levels=levels)


def test_settings_that_are_not_the_presets_survive_json() -> None:
    settings = RainbowSettings(batch_size=7, n_step=3, value_range=(-1.5, 2.0), learning_rate=0.1, gamma=0.9)
    config = dataclasses.replace(_config(), settings=settings, log_every=17)
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
    data = {**json.loads(json.dumps(_config().to_json())), **change}
    with pytest.raises(BadInputError):
        TrainConfig.from_json(data)


@pytest.mark.parametrize("missing", ["env", "freeze_at", "settings", "total_timesteps", "algo", "seed", "resolution"])
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
        ("encoder", "resnet", "--encoder resnet"),
        ("encoder", "", "--encoder "),
        ("latent_codec", "uint2", "--latent-codec uint2"),
    ],
)
def test_a_bad_value_is_refused_with_its_flag_and_a_hint(name: str, value: Any, flag: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        _config(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{flag}: ")
    assert "give " in message or "choose " in message
    assert "\n" not in message


def test_a_bad_log_interval_is_named() -> None:
    with pytest.raises(BadInputError, match="--log-every 0: give a whole number of at least 1"):
        dataclasses.replace(_config(), log_every=0)


def test_a_bad_choice_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(BadInputError, match="choose one of uniform, prioritized"):
        _config(replay="newest")
    with pytest.raises(BadInputError, match="choose one of data-efficient, canonical, sac-ae, impala"):
        _config(encoder="resnet")


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"batch_size": 0}, "batch_size"), ({"n_step": 0}, "n_step"), ({"stack": 0}, "stack"), ({"gamma": 1.1}, "gamma")],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, Any], name: str) -> None:
    for kind in (RainbowSettings, SacSettings):
        with pytest.raises(ValueError, match=name):
            kind(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"features": 0}, "features"),
        ({"actor_update_steps": 0}, "actor_update_steps"),
        ({"target_update_steps": 0}, "target_update_steps"),
        ({"target_tau": 1.5}, "target_tau"),
        ({"encoder_tau": -0.1}, "encoder_tau"),
        ({"alpha_beta1": 2.0}, "alpha_beta1"),
        ({"log_std_range": (2.0, -10.0)}, "log_std_range"),
        ({"initial_temperature": 0.0}, "initial_temperature"),
    ],
)
def test_hyperparameters_of_sac_out_of_range_are_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SacSettings(**settings)


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
    _assert_edited_is_refused(_config(), name, value)


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
    _assert_edited_is_refused(_control(), name, value)


def _assert_edited_is_refused(config: TrainConfig, name: str, value: Any) -> None:
    data = json.loads(json.dumps(config.to_json()))
    *inside, last = name.split(".")
    (data[inside[0]] if inside else data)[last] = value
    with pytest.raises(BadInputError, match=rf"config\.json.*{last}"):
        TrainConfig.from_json(data)
