"""Presets against Tables 2 and 3, typed in here from the paper, and the run that each gives without a flag."""

import dataclasses
from pathlib import Path

import pytest

from seer_edge.config import registry
from seer_edge.config.freeze_step import SHORT_RUN_FACTOR
from seer_edge.config.hyperparameters import read_preset
from seer_edge.config.presets import PRESETS, Preset, RainbowSettings, SacSettings, register_preset
from seer_edge.config.presets.atari import ATARI, ATARI_DEFAULT
from seer_edge.config.presets.control import CONTROL, CONTROL_DEFAULT, SAC
from seer_edge.config.presets.dqn import DQN_DEFAULT
from seer_edge.config.registry import choose_preset, preset_for
from seer_edge.envs import Continuous, EnvSpec
from seer_edge.errors import BadInputError
from tests.seer_edge.configs import atari_config, control_config

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


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of one task in Table 2."""

    whole: int  # freezing time in Figure 2, where the replay holds the whole run
    bounded: int  # in Figure 5
    rows: int  # initial replay buffer size in Figure 5
    action_repeat: int
    learning_rate: float = 1e-3
    batch_size: int = 128
    eval_every: int = 10_000


WALKER = Row(60_000, 80_000, 2_000, 2)
TABLE_2 = {
    "cartpole-swingup": Row(10_000, 10_000, 1_000, 8, eval_every=2_500),
    "cheetah-run": Row(80_000, 80_000, 1_000, 4, learning_rate=2e-4, batch_size=512),
    "finger-spin": Row(50_000, 50_000, 1_000, 2),
    "reacher-easy": Row(50_000, 30_000, 2_000, 4),
    "walker-walk": WALKER,
}
TRANSFER = {"walker-stand": WALKER, "hopper-hop": WALKER}  # Section 5.4, without rows of their own

FRAME_BYTES = {"atari": 84 * 84, "control": 3 * 100 * 100}


# --- Atari -------------------------------------------------------------------------------------------------


def test_presets_are_the_eight_games_of_table_3() -> None:
    presets = {preset.name: (preset.freeze_at_whole, preset.freeze_at_bounded) for preset in ATARI}
    assert presets == TABLE_3


@pytest.mark.parametrize("game", TABLE_3)
def test_a_presets_run_freezes_at_the_figures_step(game: str) -> None:
    whole, bounded = TABLE_3[game]
    config = atari_config(game)
    assert (config.preset, config.freeze_at) == (game, bounded)
    assert "does not hold the whole run" in config.freeze_reason
    assert (config.mem_budget_bytes, config.total_timesteps) == (70_000_000, 500_000)
    whole_run_bytes = 500_000 * FRAME_BYTES["atari"]
    large = atari_config(game, mem_budget_bytes=whole_run_bytes)
    assert large.freeze_at == whole
    assert "holds the whole run" in large.freeze_reason
    assert atari_config(game, mem_budget_bytes=whole_run_bytes - 1).freeze_at == bounded


@pytest.mark.parametrize("preset", [*ATARI, ATARI_DEFAULT], ids=lambda preset: preset.name)
def test_hyperparameters_are_table_3s(preset: Preset) -> None:
    rainbow = preset.settings
    assert isinstance(rainbow, RainbowSettings)
    assert (rainbow.batch_size, rainbow.n_step, rainbow.gamma, rainbow.stack, rainbow.hidden) == (32, 20, 0.99, 4, 256)
    assert (rainbow.learning_starts, rainbow.random_steps, rainbow.target_update_steps) == (1_600, 0, 2_000)
    assert (preset.eval_every, preset.eval_episodes) == (10_000, 10)
    assert (preset.algo, preset.encoder, preset.augmentations, preset.action_repeat) == (
        "rainbow",
        "data-efficient",
        1,
        None,
    )
    # Not Table 3's 1e-3: the released scripts'.
    assert rainbow.learning_rate == 1e-4
    assert (rainbow.adam_epsilon, rainbow.noisy_sigma, rainbow.max_gradient_norm) == (1.5e-4, 0.1, 10.0)
    assert (rainbow.atoms, rainbow.value_range, rainbow.evaluation_epsilon) == (51, (-10.0, 10.0), 0.001)


def test_other_games_get_the_default() -> None:
    assert preset_for("Pong", "rainbow") is ATARI_DEFAULT
    assert preset_for("BANKHEIST", "rainbow").name == "BankHeist"
    config = atari_config("Pong")
    assert (config.preset, config.freeze_at) == ("default", 100_000)
    assert atari_config("Pong", mem_budget_bytes=500_000 * FRAME_BYTES["atari"]).freeze_at == 50_000
    borrowed = atari_config("Pong", preset="Seaquest")
    assert (borrowed.preset, borrowed.freeze_at, borrowed.env_name) == ("Seaquest", 150_000, "Pong")


# --- continuous control ------------------------------------------------------------------------------------


def test_presets_are_the_five_tasks_of_table_2_and_the_two_of_the_transfer() -> None:
    assert {preset.name for preset in CONTROL} == {*TABLE_2, *TRANSFER}
    assert len(CONTROL) == 7


@pytest.mark.parametrize(("task", "row"), [*TABLE_2.items(), *TRANSFER.items()])
def test_a_control_run_without_flags_is_table_2s(task: str, row: Row) -> None:
    config = control_config(task)
    settings = config.settings
    assert isinstance(settings, SacSettings)
    assert (config.algo, config.preset, config.encoder, config.augmentations) == ("curl-sac", task, "sac-ae", 4)
    assert (config.mem_budget_bytes // FRAME_BYTES["control"], config.mem_budget_bytes) == (row.rows, row.rows * 30_000)
    assert config.action_repeat == row.action_repeat
    assert (settings.learning_rate, settings.batch_size) == (row.learning_rate, row.batch_size)
    assert (config.eval_every, config.eval_episodes) == (row.eval_every, 10)


@pytest.mark.parametrize(("task", "row"), [*TABLE_2.items(), *TRANSFER.items()])
def test_a_control_run_freezes_at_the_figures_step(task: str, row: Row) -> None:
    config = control_config(task)
    assert config.freeze_at == row.bounded
    assert config.freeze_reason == f"preset {task}, a replay that does not hold the whole run"
    whole_run_bytes = config.total_timesteps * FRAME_BYTES["control"]
    large = control_config(task, mem_budget_bytes=whole_run_bytes)
    assert large.freeze_at == row.whole
    assert large.freeze_reason == f"preset {task}, a replay that holds the whole run"
    assert control_config(task, mem_budget_bytes=whole_run_bytes - 1).freeze_at == row.bounded


@pytest.mark.parametrize("preset", [*CONTROL, CONTROL_DEFAULT], ids=lambda preset: preset.name)
def test_hyperparameters_are_table_2s(preset: Preset) -> None:
    sac = preset.settings
    assert isinstance(sac, SacSettings)
    assert (sac.stack, sac.hidden, sac.features, sac.gamma, sac.n_step) == (3, 1024, 50, 0.99, 1)
    assert (sac.learning_starts, sac.random_steps) == (1_000, 1_000)
    assert (sac.alpha_learning_rate, sac.alpha_beta1, sac.initial_temperature) == (1e-4, 0.5, 0.1)
    assert (sac.target_tau, sac.encoder_tau, sac.target_update_steps) == (0.01, 0.05, 2)
    assert (sac.contrastive, preset.algo, preset.encoder, preset.eval_episodes) == (
        True,
        "curl-sac",
        "sac-ae",
        10,
    )
    # CURL's code: not in Table 2.
    assert (sac.actor_update_steps, sac.log_std_range) == (2, (-10.0, 2.0))
    # Rewards are learned from as they are, and the policy's mean is evaluated.
    assert (sac.reward_clip, sac.evaluation_epsilon) == (None, 0.0)


def test_other_tasks_get_the_default_of_most_tasks() -> None:
    assert preset_for("hopper-stand", "curl-sac") is CONTROL_DEFAULT
    assert preset_for("Walker-Walk", "curl-sac").name == "walker-walk"
    config = control_config("hopper-stand")
    assert (config.preset, config.action_repeat, config.freeze_at, config.eval_every) == ("control", 4, 50_000, 10_000)
    assert config.settings == SacSettings()
    assert control_config("hopper-stand", mem_budget_bytes=10**10).freeze_at == 50_000
    borrowed = control_config("hopper-stand", preset="cartpole-swingup")
    assert (borrowed.preset, borrowed.action_repeat, borrowed.env_name) == ("cartpole-swingup", 8, "hopper-stand")


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_no_preset_is_a_short_run(preset: Preset) -> None:
    """A short run would freeze at 40 % of its steps and not at the table's step."""
    latest = max(preset.freeze_at_whole, preset.freeze_at_bounded)
    assert preset.total_timesteps >= SHORT_RUN_FACTOR * latest


def test_each_task_and_agent_has_one_preset_in_any_case() -> None:
    presets = [*ATARI, *CONTROL, ATARI_DEFAULT, CONTROL_DEFAULT, *SAC, DQN_DEFAULT]
    assert len({(preset.name.lower(), preset.algo) for preset in presets}) == len(presets) == len(PRESETS) == 26
    assert all(PRESETS[preset.name.lower(), preset.algo] is preset for preset in presets)
    assert all(preset.source.startswith("Table ") for preset in presets[:-1])


@pytest.mark.parametrize("preset", SAC, ids=lambda preset: preset.name)
def test_presets_of_sac_are_those_of_curl_sac_without_its_loss(preset: Preset) -> None:
    curl = preset_for(preset.name, "curl-sac")
    assert curl.settings.contrastive
    assert not preset.settings.contrastive
    assert dataclasses.replace(preset, algo="curl-sac", settings=curl.settings) == curl


def test_a_preset_is_looked_up_by_task_and_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    own = dataclasses.replace(preset_for("control", "sac"), name="hopper-stand", total_timesteps=77)
    monkeypatch.setitem(PRESETS, ("hopper-stand", "sac"), own)
    env = EnvSpec("dm_control/hopper-stand-v0", "hopper-stand", (3, 100, 100), (84, 84), Continuous(4))
    assert choose_preset(env) is CONTROL_DEFAULT
    assert choose_preset(env, algo="sac") is own
    assert choose_preset(env, "hopper-stand") is own
    assert choose_preset(env, "control", "sac") is preset_for("nothing", "sac")


def test_a_registered_preset_replaces_the_one_of_its_task_and_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_edge.config.presets.PRESETS", dict(PRESETS))
    from seer_edge.config import presets

    longer = dataclasses.replace(ATARI[0], total_timesteps=1_000_000)
    register_preset(longer)
    assert presets.PRESETS["alien", "rainbow"] is longer
    assert len(presets.PRESETS) == len(PRESETS)


def test_a_preset_file_may_leave_entries_out(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('algo = "rainbow"\nbatch_size = 16\ntotal_timesteps = 700\n')
    preset, base = read_preset(str(tmp_path / "mine.toml")), PRESETS["default", "rainbow"]
    assert preset.settings == dataclasses.replace(base.settings, batch_size=16)
    assert preset == dataclasses.replace(
        base, name=preset.name, source=preset.source, settings=preset.settings, total_timesteps=700
    )


# --- registering an agent ----------------------------------------------------------------------------------


def test_an_agent_is_registered_with_presets_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ALGORITHMS", dict(registry.ALGORITHMS))
    monkeypatch.setattr("seer_edge.config.presets.PRESETS", PRESETS | {})
    own = dataclasses.replace(DQN_DEFAULT, algo="dqn-2")
    for presets, message in (
        ((DQN_DEFAULT,), "preset default: is of agent dqn; give presets of dqn-2"),
        ((dataclasses.replace(own, settings=RainbowSettings()),), "preset default: its settings are not DqnSettings"),
        ((dataclasses.replace(own, name="Alien"),), "agent dqn-2: its default preset default is missing; give it too"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.register_algorithm("dqn-2", registry.ALGORITHMS["dqn"], *presets)
        assert "dqn-2" not in registry.ALGORITHMS
    registry.register_algorithm("dqn-2", registry.ALGORITHMS["dqn"], own)
    assert registry.ALGORITHMS["dqn-2"] is registry.ALGORITHMS["dqn"]


def test_an_unknown_agent_is_refused_in_one_line() -> None:
    with pytest.raises(BadInputError, match=r"^--algo rainbo: choose one of rainbow, "):
        atari_config(algo="rainbo")
