"""The byte plan of `--store compact`."""

import dataclasses
from typing import Any

import pytest

from seer_edge.api.planning import _note_on_demos
from seer_edge.config.build import build_config
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan, make_plan, with_sample
from seer_edge.config.plan_replay import LATENT_RATIO
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.training.components import build_replay, new_ledger
from seer_runtime.replay.block_index import block_slots, index_bytes
from seer_runtime.replay.blocks import BlockRows
from tests.seer_edge.plan_specs import ALIEN, CARTPOLE, line_of, plan_of


def _compact(env: EnvSpec = ALIEN, **given: Any) -> BytePlan:
    return plan_of(env, store="compact", **given)


@pytest.mark.parametrize(
    ("codec", "row_bytes", "guaranteed"),
    [("float32", 2_304, 30_368), ("float16", 1_152, 60_752), ("uint8", 576, 121_512), ("uint4", 288, 243_040)],
)
def test_guaranteed_rows_leave_room_for_one_more_block(codec: str, row_bytes: int, guaranteed: int) -> None:
    plan = _compact(mem_budget_bytes=70_000_000, latent_codec=codec)
    assert plan.arena_bytes == 70_000_000  # blocks need no whole number of frames
    assert plan.frame_capacity == (70_000_000 // (8 * 7_056) - 1) * 8 == 9_912
    assert plan.latent_row_bytes == row_bytes
    assert plan.latent_capacity == (70_000_000 // (8 * row_bytes) - 1) * 8 == guaranteed
    assert plan.most_rows == plan.row_limit == 562_500  # an eighth more than steps
    slots = block_slots(562_500)
    assert plan.index_bytes == index_bytes(slots) == (-(-562_500 // 8) + 2) * 12
    assert plan.columns_bytes == slots * 10
    assert line_of(plan, "index of blocks") == f"{plan.index_bytes:,} B"


def test_rows_are_limited_by_the_steps_of_the_run_and_by_the_budget() -> None:
    plan = _compact(total_timesteps=100_000)
    assert plan.row_limit == 112_500 < plan.latent_capacity
    assert line_of(plan, "capacity after the freeze (C_hat)") == "112,500 rows, the most of this run"
    assert _compact(total_timesteps=10**8).row_limit == 70_000_000 // 64
    assert _compact(total_timesteps=10**8, freeze_at="never").row_limit == 70_000_000 // 64
    assert _compact(total_timesteps=10**8, mem_budget_bytes=10**6).row_limit == 100_000
    assert _compact(total_timesteps=40).row_limit == 32 + 20 + 4 - 1  # a batch of windows


def test_rows_of_other_steps_are_not_limited_by_those_of_the_run() -> None:
    assert _compact(total_timesteps=1_000, demos="rows.seer").row_limit == 70_000_000 // 64
    plan = _compact(total_timesteps=1_000, source="runs/x")
    assert plan.row_limit == 70_000_000 // 64
    assert line_of(plan, "capacity before the freeze (C)") == "-, the replay holds latents only"


@pytest.mark.parametrize(
    ("store", "rows", "text"),
    [
        ("paper", 9_920, "9,920 rows of d.seer are stored"),
        ("paper", 9_921, "the newest 9,920 of 9,921 rows of d.seer are stored"),
        ("compact", 9_912, "9,912 rows of d.seer are stored"),
        ("compact", 9_913, "as many of the newest of 9,913 rows as fit, at least 9,912, of d.seer are stored"),
    ],
)
def test_the_plan_says_how_many_demonstrations_fit(store: str, rows: int, text: str) -> None:
    plan = plan_of(store=store, demos="d.seer")
    assert _note_on_demos(plan, rows) == f"{text} before the first step"


def test_expected_rows_are_shown_where_they_are_known() -> None:
    plan = _compact()
    frames, latents = "capacity before the freeze (C)", "capacity after the freeze (C_hat)"
    assert line_of(plan, frames) == "at least 9,912 rows; the run shows how many fit"
    row_bytes = LATENT_RATIO * 576
    room = 70_000_000 - 8 * 576
    expected = f", about {int(room / row_bytes):,} expected at {row_bytes:,.0f} B (a guess, from Atari)"
    assert line_of(plan, latents) == f"at least 121,512 rows{expected}"
    sampled = dataclasses.replace(plan, sampled_row_bytes=1_000.0)
    text = "at least 9,912 rows, about 69,943 expected at 1,000 B (random play)"
    assert line_of(sampled, frames) == text
    smaller = dataclasses.replace(plan, sampled_row_bytes=100.0)
    assert ", about 562,500, the most of this run, expected at 100 B" in line_of(smaller, frames)
    camera = dataclasses.replace(plan, env=dataclasses.replace(plan.env, as_registered=True))
    assert line_of(camera, latents) == "at least 121,512 rows; the run shows how many fit"
    crops = _compact(CARTPOLE, mem_budget_bytes=10_000_000)
    assert crops.config.augmentations > 1
    assert line_of(crops, latents) == f"at least {crops.latent_capacity:,} rows; the run shows how many fit"


def _warnings(row_bytes: float, **given: Any) -> list[str]:
    return [line for line in with_sample(_compact(**given), row_bytes).warnings if "the oldest rows" in line]


def test_the_plan_warns_of_a_freeze_that_will_drop_rows() -> None:
    """100,000 frames are stored by the freeze if they fit, and about 60,700 float32 latents fit after it."""
    (warning,) = _warnings(200.0, latent_codec="float32")
    assert warning == (
        "--latent-codec float32: the freeze will probably drop the oldest rows, because about 100,000 frames are "
        "expected before it and about 60,747 latents fit after it; all fit with float16, uint8, uint4"
    )
    (warning,) = _warnings(200.0, latent_codec="auto")
    assert warning.startswith("--latent-codec auto: the freeze may drop the oldest rows, because about 100,000 ")
    (warning,) = _warnings(20.0, mem_budget_bytes=1_000_000)
    assert "about 47,177 frames are expected before it and about 3,456 latents fit" in warning
    assert warning.endswith("; give a larger --mem-budget to keep more")


@pytest.mark.parametrize(
    ("row_bytes", "given"),
    [
        (200.0, {}),
        (200.0, {"latent_codec": "float32", "freeze_at": 60_000}),
        (2_000.0, {"latent_codec": "float32"}),
        (200.0, {"latent_codec": "float32", "freeze_at": "never"}),
        (200.0, {"env": CARTPOLE}),
    ],
)
def test_the_plan_does_not_warn_if_all_rows_are_kept_or_latents_are_unknown(
    row_bytes: float, given: dict[str, Any]
) -> None:
    assert _warnings(row_bytes, **given) == []


def test_the_default_codec_is_quantized_unless_an_encoder_is_imported() -> None:
    assert _compact().config.latent_codec == "uint8"
    assert _compact(latent_codec="float16").config.latent_codec == "float16"
    assert _compact(CARTPOLE, source="runs/x").config.latent_codec == "float32"
    assert plan_of().config.latent_codec == "float32"


def test_paper_is_the_default_and_the_store_of_earlier_runs() -> None:
    config = plan_of().config
    assert (config.store, config.compact) == ("paper", False)
    assert plan_of().index_bytes == plan_of().row_limit == 0
    assert "index of blocks" not in plan_of().render()
    earlier = config.to_json()
    assert earlier.pop("store") == "paper"
    assert TrainConfig.from_json(earlier) == config


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^--store.*zip.*paper"):
        build_config(ALIEN, store="zip")


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (ALIEN, {}),
        (ALIEN, {"latent_codec": "float32", "encoder": "canonical"}),  # latents are larger than frames
        (CARTPOLE, {"algo": "sac"}),
        (CARTPOLE, {"source": "runs/x"}),
        (ALIEN, {"freeze_at": "never"}),
    ],
)
def test_the_smallest_budget_holds_a_batch_and_one_byte_less_is_refused(env: EnvSpec, given: dict[str, Any]) -> None:
    with pytest.raises(BadInputError) as error:
        _compact(env, mem_budget_bytes=1_000, **given)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--mem-budget 1000 B: cannot hold one batch of ")
    smallest = int(str(error.value).split("give at least ")[1].split(" B,")[0])
    plan = _compact(env, mem_budget_bytes=smallest, **given)
    settings = plan.config.settings
    needed = settings.batch_size + settings.n_step + settings.stack - 1
    if plan.config.freeze_at == 0:
        assert needed <= plan.latent_capacity < needed + 8
    else:
        assert needed <= min(plan.frame_capacity, plan.latent_capacity) < needed + 8
    assert plan.arena_bytes == smallest
    with pytest.raises(BadInputError, match=f"^--mem-budget {smallest - 1} B: .*give at least {smallest} B"):
        _compact(env, mem_budget_bytes=smallest - 1, **given)
    replay = build_replay(plan, new_ledger(plan), 0, latents=plan.config.freeze_at == 0)
    assert isinstance(replay.store.storage, BlockRows)
    assert replay.store.capacity == block_slots(plan.row_limit)


def test_the_arena_never_exceeds_the_budget() -> None:
    for budget in (1_000_000, 1_000_001, 70_560_000):
        plan = make_plan(build_config(ALIEN, store="compact", mem_budget_bytes=budget), ALIEN)
        assert plan.arena_bytes == budget
        assert plan.frame_capacity * 7_056 < budget
        assert plan.latent_capacity * plan.latent_row_bytes < budget
