"""The byte plan: its table, its figures beside the replay and its warnings."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from seer_edge.agents import make_agent
from seer_edge.config.build import build_config
from seer_edge.config.plan import make_plan, replan
from seer_edge.config.plan_process import INPUT_FACTOR
from seer_edge.config.presets import RainbowSettings
from seer_edge.config.registry import ALGORITHMS
from seer_edge.envs import Discrete, EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.networks.flops import QLearningFlops
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.units import format_size
from tests.seer_edge.plan_specs import ALIEN, CARTPOLE, CODECS, gray, line_of, plan_of

# --- Atari -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "row_bytes", "latent_capacity"),
    [("float32", 2_304, 30_380), ("float16", 1_152, 60_760), ("uint8", 576, 121_520), ("uint4", 288, 243_040)],
)
def test_capacities_are_those_of_the_formula(codec: str, row_bytes: int, latent_capacity: int) -> None:
    plan = plan_of(mem_budget_bytes=70_000_000, latent_codec=codec)
    assert plan.frame_row_bytes == 7_056
    assert plan.frame_capacity == 70_000_000 // 7_056 == 9_920
    assert plan.latent_row_bytes == row_bytes
    assert plan.latent_capacity == 9_920 * 7_056 // row_bytes == latent_capacity
    assert plan.arena_bytes == 9_920 * 7_056 <= 70_000_000
    assert plan.warnings == ()


def test_evaluations_in_real_time_play_the_training_environment() -> None:
    assert "in a separate environment" in line_of(plan_of(), "evaluation")
    assert "in the training environment" in line_of(plan_of(hz=30.0), "evaluation")


def test_before_the_choice_of_a_codec_the_plan_shows_all_and_reserves_for_the_largest() -> None:
    plan, named = plan_of(latent_codec="auto"), [plan_of(latent_codec=name) for name in CODECS]
    assert line_of(plan, "bytes a latent (b N K L)") == "2,304, 1,152, 576, 288 (L = 576, N = 1, K = 1, auto)"
    *wider, densest = line_of(plan, "capacity after the freeze (C_hat)").split("x), ")
    assert wider == ["float32 30,380 rows (3.06", "float16 60,760 rows (6.12", "uint8 121,520 rows (12.25"]
    assert densest == "uint4 243,040 rows (24.50x)"
    assert plan.choices == tuple(named)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (2_304, 30_380)
    for line in ("columns_bytes", "priorities_bytes", "workspace_bytes", "most_rows", "rss_peak_bytes"):
        assert getattr(plan, line) >= max(getattr(other, line) for other in named)
    assert plan.most_rows == 243_040
    assert plan.checkpoint_bytes == max(other.checkpoint_bytes for other in named)
    assert plan.warnings == ()


def test_auto_warns_if_it_may_shrink_the_capacity() -> None:
    (warning,) = plan_of(encoder="canonical", latent_codec="auto").warnings
    assert warning.startswith(
        "--latent-codec auto: the freeze may shrink the capacity from 9,920 to 5,580 rows; it grows"
    )
    layers = {"freeze_layers": 2, "encoder": "canonical", "mem_budget_bytes": 1_000_000}
    some, none = (plan_of(gray(42, 42), latent_codec=codec, **layers) for codec in ("auto", "float32"))
    assert (some.latent_replay, none.latent_replay) == (True, False)
    assert some.warnings == ()
    assert "float32 566 rows: the replay keeps frames, float16 " in line_of(some, "capacity after the freeze (C_hat)")
    (warning,) = plan_of(CARTPOLE, latent_codec="auto", freeze_layers=4).warnings
    assert "so the replay keeps frames" in warning


@pytest.mark.parametrize("budget", [70_560_000, 1_000_000, 999_999, 7_056 * 1_000, 7_056 * 1_000 - 1])
def test_capacities_never_exceed_the_budget(budget: int) -> None:
    for codec in ("float32", "float16", "uint8", "uint4"):
        for encoder in ("data-efficient", "canonical"):
            plan = plan_of(mem_budget_bytes=budget, latent_codec=codec, encoder=encoder)
            assert plan.frame_capacity * 7_056 <= budget < (plan.frame_capacity + 1) * 7_056
            assert plan.latent_capacity * plan.latent_row_bytes <= plan.arena_bytes <= budget
            assert (plan.latent_capacity + 1) * plan.latent_row_bytes > plan.arena_bytes


def test_the_plan_warns_if_latents_shrink_the_capacity_and_names_denser_codecs() -> None:
    plan = plan_of(encoder="canonical")
    assert plan.latent_row_bytes == 4 * 3_136
    assert plan.latent_capacity == 5_580
    assert plan.latent_capacity / plan.frame_capacity == 0.5625
    (warning,) = plan.warnings
    assert "float32: the freeze will shrink the capacity from 9,920 to 5,580 rows" in warning
    assert "it grows with float16 (11,160 rows), uint8 (22,320 rows), uint4 (44,640 rows)" in warning
    assert "float32 (" not in warning
    assert "0.56x" in plan.render()
    assert f"warning: {warning}" in plan.render()

    halved = plan_of(encoder="canonical", latent_codec="float16")
    assert halved.latent_capacity == 11_160
    assert halved.warnings == ()
    assert plan_of(encoder="canonical", freeze_at="never").warnings == ()


@pytest.mark.parametrize("codec", ["float32", "auto"])
def test_the_plan_warns_of_a_head_too_large_for_a_bundle(codec: str) -> None:
    """sac-ae at 84x84 has 39,200 latent elements: a matrix of 80 MB under Rainbow."""
    *_, warning = plan_of(encoder="sac-ae", latent_codec=codec).warnings
    assert warning == (
        "--encoder sac-ae: this run cannot be exported: its head takes 82.2 MB and `act` reads at most 67.1 MB; "
        "choose another encoder or a smaller `hidden`"
    )


@pytest.mark.parametrize(("actions", "atoms", "hidden"), [(1, 2, 3), (18, 51, 256)])
def test_the_size_of_an_exported_head_is_known_before_the_run(actions: int, atoms: int, hidden: int) -> None:
    settings = RainbowSettings(atoms=atoms, hidden=hidden)
    env = dataclasses.replace(ALIEN, actions=Discrete(actions))
    plan = make_plan(dataclasses.replace(build_config(env), settings=settings), env)
    agent = make_agent(plan, seed=0)
    graph = plan.networks.policy_graph(settings, agent.state().arrays)
    assert 0 <= len(graph) - 4 * plan.networks.policy_parameters < 2_000


def test_the_plan_warns_at_every_frame_size_whose_latents_are_larger() -> None:
    seen = set()
    for side in range(36, 85):
        plan = plan_of(gray(side, side), encoder="canonical")
        shrinks = plan.latent_row_bytes > side * side
        assert bool(plan.warnings) == shrinks == (plan.latent_capacity < plan.frame_capacity)
        seen.add(shrinks)
    assert seen == {True, False}


def test_the_plan_warns_of_a_freeze_before_learning_starts() -> None:
    (warning,) = plan_of(freeze_at=1_600).warnings
    assert warning.startswith("the freeze at step 1,600 comes before learning starts, at step 1,600, so the encoder ")
    assert plan_of(freeze_at=1_601).warnings == ()
    assert any("learning starts, at step 1,000" in line for line in plan_of(CARTPOLE, freeze_at=1_000).warnings)
    assert plan_of(CARTPOLE, freeze_at=1_001).warnings == ()


def test_the_plan_warns_of_a_run_without_an_update() -> None:
    never = replan(plan_of(), freeze_at=None)
    imported = replan(never, source="policy.seer", freeze_at=0)
    for plan in (never, imported):
        assert replan(plan, total_timesteps=1_601).warnings == ()
        assert replan(plan, total_timesteps=1_600).warnings == (
            "the run ends at step 1,600, before its first update, because learning starts after step 1,600; give more "
            "--total-timesteps, or --set learning_starts=N with a smaller N",
        )


def test_capacities_at_42x42_follow_from_frame_and_latent_sizes() -> None:
    """A quarter of the frame's bytes and, for the encoder's last map of 1x1, a ninth of the latent's."""
    plan = plan_of(EnvSpec("ALE/Alien-v5", "Alien", (42, 42), (42, 42), Discrete(18)))
    assert (plan.frame_row_bytes, plan.frame_capacity) == (1_764, 39_682)
    assert (plan.encoder.latent_shape, plan.latent_row_bytes) == ((1, 64), 256)
    assert plan.latent_capacity == 39_682 * 1_764 // 256 == 273_433
    assert "frames 42x42, " in line_of(plan, "environment")
    assert "crops" not in line_of(plan, "environment")


# --- bytes beside the replay -------------------------------------------------------------------------------


def test_model_and_optimizer_are_two_and_three_copies_of_the_parameters() -> None:
    plan = plan_of()
    encoder = 32 * (4 * 25 + 1) + 64 * (32 * 25 + 1)
    head = 2 * (2 * (576 + 1) * 256 + (256 + 1) * 51 * 19)
    assert plan.model_bytes == 2 * 4 * (encoder + head)
    assert plan.optimizer_bytes == 3 * 4 * (encoder + head)


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["curl-sac", "sac"])
def test_an_early_freeze_on_a_control_task_is_reported(algo: str) -> None:
    (warning,) = plan_of(CARTPOLE, algo=algo, total_timesteps=8_000).warnings
    assert warning.startswith("the freeze at step 3,200 is earlier than the preset's. Short runs on a control task")
    assert plan_of(CARTPOLE, algo=algo, total_timesteps=8_000, freeze_at=3_200).warnings == ()
    assert plan_of(CARTPOLE, algo=algo, total_timesteps=25_000).warnings == ()
    assert plan_of(total_timesteps=8_000).warnings == ()
    short = plan_of(CARTPOLE, algo=algo, total_timesteps=8_000)
    assert make_plan(short.config, short.env, frozen=True).warnings == ()
    assert replan(short, total_timesteps=30_000).warnings == (), "a longer run keeps its step"


@pytest.mark.parametrize(
    ("given", "checkpoints_an_hour", "every"),
    [
        ({}, 2, "30 min"),
        ({"checkpoint_every_seconds": 600.0}, 6, "10 min"),
        ({"checkpoint_every_seconds": 7200.0}, 0.5, "2 h"),
        (
            {"checkpoint_every_seconds": None, "checkpoint_every_steps": 5_000},
            72,
            "5,000 steps, at 100 steps a second",
        ),
    ],
)
def test_the_plan_shows_the_bytes_written_in_an_hour(
    given: dict[str, Any], checkpoints_an_hour: float, every: str
) -> None:
    plan = plan_of(**given)
    written = format_size(round(checkpoints_an_hour * plan.checkpoint_bytes))
    assert line_of(plan, "written an hour") == f"at most {written} (a checkpoint every {every})"
    assert line_of(plan, "a checkpoint") == f"at most {format_size(plan.checkpoint_bytes)}; two are kept"


# --- the whole table ---------------------------------------------------------------------------------------


def test_the_table_shows_every_line() -> None:
    text = plan_of(replay="prioritized").render()
    for shown in (
        "9,920 rows",
        "30,380 rows (3.06x)",
        "70,000,000 B",
        "7,056",
        "69,995,520 B",
        "step 100,000 of 500,000",
    ):
        assert shown in text
    assert "  priorities " in text
    assert " never " in plan_of(freeze_at="never").render()


def test_limits_are_shown_where_there_are_any() -> None:
    plan = plan_of()
    assert "limit" not in plan.render()
    assert "this machine" not in plan.render()
    assert line_of(plan_of(rss_limit_bytes=512_000_000), "RSS limit") == "512,000,000 B"
    shown = plan.render(MemoryLimits(4 * 10**9, 3 * 10**9, cgroup_bytes=10**9)).splitlines()
    assert shown[:-1] == plan.render().splitlines()
    assert shown[-1].startswith("  memory of this machine  ")
    assert shown[-1].endswith("  4.0 GB, of which 3.0 GB are available; cgroup limit 1.0 GB")


def test_flops_are_of_this_plan() -> None:
    flops = plan_of().flops
    assert isinstance(flops, QLearningFlops)
    assert (flops.encoder, flops.head, flops.batch_size, flops.frame_capacity) == (1_280_000, 542_976, 32, 9_920)
    assert flops.after_freeze == 89_979_136


def test_an_agent_that_cannot_act_in_the_environment_is_refused() -> None:
    for env, other in ((ALIEN, CARTPOLE), (CARTPOLE, ALIEN)):
        with pytest.raises(BadInputError, match=rf"^--algo [\w-]+: {other.name} has \w+ actions; use --algo "):
            make_plan(build_config(env), other)


def test_the_plan_warns_of_a_freeze_at_the_last_step() -> None:
    (warning,) = plan_of(total_timesteps=3_000, freeze_at=3_000).warnings
    assert warning == "--freeze-at 3000: is the last step, so the agent never learns from latents"
    assert plan_of(total_timesteps=3_000, freeze_at=2_999).warnings == ()


def test_the_peak_includes_the_memory_of_an_update_and_the_renderer() -> None:
    plan = plan_of(CARTPOLE)
    maps, inputs = 32 * (41**2 + 39**2 + 37**2 + 35**2), 9 * 84 * 84
    factor = ALGORITHMS["curl-sac"].map_factor
    assert plan.activation_bytes == round(128 * 4 * (factor * maps + INPUT_FACTOR * inputs))
    rendered = plan_of(dataclasses.replace(CARTPOLE, process_bytes=10**9))
    assert rendered.rss_peak_bytes == plan.rss_peak_bytes + 10**9
    assert rendered.anon_peak_bytes == plan.anon_peak_bytes + 10**9
    assert plan.arena_bytes < plan.anon_peak_bytes < plan.rss_peak_bytes
    assert f"{plan.activation_bytes:,} B" in plan.render()
    assert plan_of(CARTPOLE, source="elsewhere").activation_bytes == 0
    assert plan_of(CARTPOLE, source="elsewhere", freeze_layers=4).activation_bytes == plan.activation_bytes


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; from seer_edge.config.build import build_config; from seer_edge.envs import Continuous, EnvSpec;"
        "from seer_edge.envs import Discrete; from seer_edge.config.plan import make_plan;"
        "envs = EnvSpec('E-v0', 'E', (84, 84), (84, 84), Discrete(4)),"
        "EnvSpec('F-v0', 'F', (3, 100, 100), (84, 84), Continuous(4));"
        "print(*(make_plan(build_config(env), env).render() for env in envs)); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "9,920 rows" in done.stdout
    assert "37,500 rows" in done.stdout
    assert "'numpy'" in done.stdout
    assert "'torch'" not in done.stdout
