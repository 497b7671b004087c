"""Configurations: values of the preset, the freezing time, and bad values."""

import dataclasses
from typing import Any

import pytest

from seer_edge.config.config import MAX_AUGMENTATIONS
from seer_edge.config.freeze_step import freeze_fields
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.config.registry import preset_for
from seer_edge.errors import BadInputError
from seer_runtime.onnx.encoder import MAX_BATCH
from tests.seer_edge.configs import atari_config, control_config

FRAME_BYTES = 7_056
WHOLE_RUN_BYTES = 500_000 * FRAME_BYTES
ALIEN = preset_for("Alien", "rainbow")

# --- agent and preset --------------------------------------------------------------------------------------


def test_the_agent_follows_from_the_actions() -> None:
    assert (atari_config().algo, atari_config().preset, atari_config().settings) == (
        "rainbow",
        "Alien",
        RainbowSettings(),
    )
    control = control_config("walker-walk")
    assert (control.algo, control.preset, control.settings) == ("curl-sac", "walker-walk", SacSettings())
    assert control_config("hopper-stand").preset == "control"
    assert atari_config("Pong").preset == "default"


def test_sac_is_curl_sac_without_the_contrastive_loss() -> None:
    curl, plain = control_config("cheetah-run"), control_config("cheetah-run", algo="sac")
    assert (curl.algo, curl.settings.contrastive) == ("curl-sac", True)
    assert (plain.algo, plain.settings.contrastive) == ("sac", False)
    assert dataclasses.replace(plain, algo="curl-sac", settings=curl.settings) == curl


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (
            control_config,
            {"algo": "rainbow"},
            "--algo rainbow: cartpole-swingup has continuous actions; .*curl-sac or sac$",
        ),
        (atari_config, {"algo": "curl-sac"}, "--algo curl-sac: Alien has discrete actions; use --algo rainbow or dqn"),
        (atari_config, {"algo": "sac"}, "--algo sac: Alien has discrete actions; use --algo rainbow or dqn"),
        (
            control_config,
            {"preset": "Alien"},
            "--preset Alien: cartpole-swingup has continuous actions; .*curl-sac or sac",
        ),
        (
            atari_config,
            {"preset": "walker-walk"},
            "--preset walker-walk: Alien has discrete actions; use --algo rainbow",
        ),
        (
            control_config,
            {"preset": "Alien", "algo": "sac"},
            "--preset Alien: is a preset of rainbow, not of sac; name another or leave it",
        ),
        (
            atari_config,
            {"preset": "walker-walk", "algo": "rainbow"},
            "--preset walker-walk: is a preset of curl-sac or sac, not of rainbow; name",
        ),
    ],
)
def test_an_agent_or_preset_for_other_actions_is_refused(build: Any, given: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build(**given)


def test_given_values_override_the_preset() -> None:
    preset = control_config("cheetah-run")
    assert (preset.augmentations, preset.encoder, preset.action_repeat, preset.eval_every) == (4, "sac-ae", 4, 10_000)
    given = {"augmentations": 2, "encoder": "impala", "eval_every": 7, "eval_episodes": 3, "mem_budget_bytes": 10**7}
    config = control_config("cheetah-run", **given)
    assert {name: getattr(config, name) for name in given} == given
    assert (config.action_repeat, config.settings) == (4, preset.settings)


# --- augmentations -----------------------------------------------------------------------------------------


def test_k_crops_and_the_center_are_encoded_in_one_call() -> None:
    assert MAX_AUGMENTATIONS + 1 == MAX_BATCH == 16
    assert [control_config(augmentations=k).augmentations for k in (1, 15, None)] == [1, 15, 4]
    for k in (0, -1, 16):
        with pytest.raises(BadInputError, match=f"--augmentations {k}: give 1 to 15"):
            control_config(augmentations=k)


def test_a_frame_that_is_seen_whole_has_one_view() -> None:
    assert atari_config().augmentations == atari_config(augmentations=1).augmentations == 1
    for k in (0, 2, 4):
        with pytest.raises(BadInputError, match=f"--augmentations {k}: Alien is not cropped; leave it out"):
            atari_config(augmentations=k)


# --- layers and transfer -----------------------------------------------------------------------------------


def test_layers_are_frozen_only_where_there_is_a_freeze() -> None:
    assert control_config(freeze_layers=2).freeze_layers == 2
    with pytest.raises(BadInputError, match="--freeze-layers 2: --freeze-at never freezes nothing"):
        control_config(freeze_layers=2, freeze_at="never")


def test_an_imported_encoder_is_frozen_from_step_0() -> None:
    config = control_config(source="runs/x")
    assert (config.freeze_at, config.source, config.freeze_reason) == (0, "runs/x", "--from")
    assert control_config(source="runs/x", freeze_layers=4).freeze_layers == 4
    for codec in ("float16", "uint8", "uint4"):  # imported rows bring their quantization ranges
        assert control_config(source="runs/x", latent_codec=codec).latent_codec == codec
    with pytest.raises(BadInputError, match="--latent-codec auto: needs rows of frames"):
        control_config(source="runs/x", latent_codec="auto")
    for freeze_at in (5, 10**9, "never"):
        with pytest.raises(
            BadInputError, match=f"--freeze-at {freeze_at}: the encoder of --from is frozen from step 0"
        ):
            control_config(source="runs/x", freeze_at=freeze_at)


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
    assert atari_config(total_timesteps=200_000).freeze_at == 80_000
    assert atari_config(total_timesteps=200_000, mem_budget_bytes=200_000 * FRAME_BYTES).freeze_at == 50_000


def test_a_given_freeze_step_is_used_unchanged() -> None:
    assert (atari_config(freeze_at=123).freeze_at, atari_config(freeze_at=123).freeze_reason) == (123, "--freeze-at")
    assert atari_config(freeze_at=500_000).freeze_at == 500_000
    assert atari_config(freeze_at="never").freeze_at is None
    assert atari_config(freeze_at="never").freeze_reason == "--freeze-at never"


def test_a_freeze_beyond_the_end_is_refused() -> None:
    with pytest.raises(
        BadInputError, match="--freeze-at 500001: the run ends at step 500000; give an earlier step, or never"
    ):
        atari_config(freeze_at=500_001)
    with pytest.raises(BadInputError, match="--freeze-at 20"):
        atari_config(freeze_at=20, total_timesteps=19)


@pytest.mark.parametrize("total", [*range(1, 60), 124_999, 125_000, 374_999, 375_000])
@pytest.mark.parametrize("game", ["Alien", "Seaquest", "Pong"])
def test_only_a_given_step_can_be_beyond_the_end(game: str, total: int) -> None:
    for budget in (None, WHOLE_RUN_BYTES):
        freeze_at = atari_config(game, total_timesteps=total, mem_budget_bytes=budget).freeze_at
        assert freeze_at is not None
        assert 1 <= freeze_at <= total


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
        ("eval_episodes", 10_001, "--eval-episodes 10001"),
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
        atari_config(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{flag}: ")
    assert "give " in message or "choose " in message
    assert "\n" not in message


def test_a_bad_log_interval_is_named() -> None:
    with pytest.raises(BadInputError, match="--log-every 0: give a whole number of at least 1"):
        dataclasses.replace(atari_config(), log_every=0)


def test_a_bad_choice_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(BadInputError, match="choose one of uniform, prioritized"):
        atari_config(replay="newest")
    with pytest.raises(BadInputError, match="choose one of data-efficient, canonical, sac-ae, impala"):
        atari_config(encoder="resnet")


@pytest.mark.parametrize("levels", [0, 8, 33, 256])
def test_other_numbers_of_gray_levels_are_refused(levels: int) -> None:
    with pytest.raises(BadInputError, match=f"--gray-levels {levels}: choose one of 16, 32, 64"):
        atari_config(gray_levels=levels)


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
