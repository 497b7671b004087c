"""Capacities in the byte plan of control tasks, of each encoder and of each freeze, and the smallest budget."""

import re
from typing import Any

import pytest

from seer_edge.envs import Continuous, EnvSpec
from seer_edge.errors import BadInputError
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES
from tests.seer_edge.plan_specs import ALIEN, CARTPOLE, CARTPOLE_50, WALKER, gray, line_of, plan_of

# --- continuous control ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env", "capacity"), [(CARTPOLE, 1_000), (WALKER, 2_000)])
def test_capacities_on_control_are_those_of_the_formula(env: EnvSpec, capacity: int) -> None:
    plan = plan_of(env)  # the preset: 0.03 GB and 0.06 GB
    assert (plan.config.mem_budget_bytes, plan.frame_row_bytes) == (capacity * 30_000, 30_000)
    assert (plan.frame_capacity, plan.arena_bytes) == (capacity, capacity * 30_000)
    assert (plan.encoder.latent_shape, plan.config.augmentations) == ((2, 50), 4)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (4 * 2 * 4 * 50, capacity * 75 // 4)
    assert plan.latent_capacity == {1_000: 18_750, 2_000: 37_500}[capacity]
    assert plan.latent_replay
    assert plan.warnings == ()
    halved = plan_of(env, latent_codec="float16")
    assert (halved.latent_row_bytes, halved.latent_capacity) == (800, {1_000: 37_500, 2_000: 75_000}[capacity])
    for codec, factor in {"uint8": 4, "uint4": 8}.items():
        dense = plan_of(env, latent_codec=codec)
        assert (dense.latent_row_bytes, dense.latent_capacity) == (1_600 // factor, plan.latent_capacity * factor)


@pytest.mark.parametrize("augmentations", [1, 2, 4, 15])
def test_each_augmentation_is_stored(augmentations: int) -> None:
    plan = plan_of(CARTPOLE, augmentations=augmentations)
    assert plan.latent_row_bytes == 400 * augmentations
    assert plan.latent_capacity == 30_000_000 // (400 * augmentations)
    assert f"K = {augmentations}, " in line_of(plan, "bytes a latent (b N K L)")


def test_resolution_50_gives_four_times_the_frames_and_as_many_latents() -> None:
    plan = plan_of(CARTPOLE_50)
    assert (plan.frame_row_bytes, plan.frame_capacity) == (7_500, 4_000)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (1_600, 18_750)
    assert plan.crop.size == (42, 42)
    assert "frames 3x50x50, crops of 42x42" in line_of(plan, "environment")


def test_the_table_of_control_shows_k_n_and_l() -> None:
    plan = plan_of(CARTPOLE)
    assert line_of(plan, "bytes a latent (b N K L)") == "1,600 (L = 50, N = 2, K = 4, float32)"
    assert line_of(plan, "bytes a frame (P)") == "30,000"
    assert line_of(plan, "capacity before the freeze (C)") == "1,000 rows"
    assert line_of(plan, "capacity after the freeze (C_hat)") == "18,750 rows (18.75x)"
    assert line_of(plan, "freeze (T_f)").startswith("step 10,000 of 62,500 (preset cartpole-swingup, ")
    environment = line_of(plan, "environment")
    for shown in ("1 continuous action,", "frames 3x100x100, crops of 84x84", "action repeat 8"):
        assert shown in environment
    assert line_of(plan, "agent").startswith("curl-sac, encoder sac-ae, uniform replay")
    assert "walker-walk-v0, 6 continuous actions, " in line_of(plan_of(WALKER), "environment")


def test_workspace_above_its_cap_is_refused_before_the_run_and_not_at_its_freeze() -> None:
    """The conversion of K crops a row and the minibatch of frames do not both fit."""

    def at(resolution: int) -> EnvSpec:
        crop = resolution * 84 // 100
        return EnvSpec("Big-v0", "big", (3, resolution, resolution), (crop, crop), Continuous(1))

    assert plan_of(at(175)).workspace_bytes <= WORKSPACE_CAP_BYTES == 8_000_000
    with pytest.raises(
        BadInputError, match=r"--resolution 200: stacks of 3 frames of 3x200x200 need [0-9,]+ B of workspace"
    ):
        plan_of(at(200))


# --- every encoder with either agent -----------------------------------------------------------------------

LAST_MAP = {"data-efficient": 64 * 3 * 3, "canonical": 64 * 7 * 7, "sac-ae": 32 * 35 * 35, "impala": 32 * 11 * 11}


@pytest.mark.parametrize("codec", ["float32", "float16", "uint8", "uint4"])
@pytest.mark.parametrize("encoder", LAST_MAP)
def test_any_encoder_with_rainbow_stores_its_last_map(encoder: str, codec: str) -> None:
    element_bytes = {"float32": 4, "float16": 2, "uint8": 1, "uint4": 0.5}[codec]
    plan = plan_of(encoder=encoder, latent_codec=codec)
    row_bytes = int(element_bytes * LAST_MAP[encoder])
    assert plan.encoder.latent_shape == (1, LAST_MAP[encoder])
    assert (plan.latent_row_bytes, plan.latent_capacity) == (row_bytes, 9_920 * 7_056 // row_bytes)
    assert plan.latent_replay
    assert bool(plan.warnings) == (row_bytes > 7_056)
    mends = {
        "sac-ae": "no codec makes",
        "impala": "it grows with uint8 (18,077 rows), uint4 (36,154 rows)",
    }
    if plan.warnings and encoder in mends:  # as large in float16 still
        warning, *_ = plan.warnings  # the head of sac-ae is too large to export, too
        assert f"shrink the capacity from 9,920 to {plan.latent_capacity:,} rows; {mends[encoder]}" in warning


@pytest.mark.parametrize("encoder", LAST_MAP)
def test_any_encoder_with_curl_sac_stores_the_outputs_of_its_fcs(encoder: str) -> None:
    plan = plan_of(CARTPOLE, encoder=encoder)
    assert plan.encoder.latent_shape == (2, 50)
    assert plan.encoder.flat_size == LAST_MAP[encoder]
    assert (plan.latent_row_bytes, plan.latent_capacity) == (1_600, 18_750)
    assert plan.warnings == ()
    assert f"encoder {encoder}, " in line_of(plan, "agent")


# --- a freeze of fewer layers (Appendix D) -----------------------------------------------------------------


def test_latents_that_are_larger_than_frames_leave_a_replay_of_frames() -> None:
    plan = plan_of(CARTPOLE, freeze_layers=4)  # the paper's four convolutions
    assert plan.encoder.latent_shape == (1, 39_200)
    assert not plan.latent_replay
    assert plan.latent_row_bytes == 4 * 4 * 39_200
    (warning,) = plan.warnings
    assert warning == (
        "--freeze-layers 4: a latent of 627,200 B is larger than a frame of 30,000 B, so the replay keeps frames: "
        "the freeze saves compute, not memory"
    )
    assert line_of(plan, "capacity after the freeze (C_hat)") == "1,000 rows: the replay keeps frames"
    assert line_of(plan, "freeze (T_f)").endswith(", the lowest 4 of 5 weight layers")
    assert plan.columns_bytes == 1_000 * (4 + 6)


@pytest.mark.parametrize(
    ("codec", "augmentations", "row_bytes", "latent_replay"),
    [
        ("float16", 1, 7_744, True),
        ("float32", 1, 15_488, True),
        ("float16", 4, 30_976, False),
        ("float32", 4, 61_952, False),
    ],
)
def test_impalas_convolutions_give_a_latent_replay_where_their_map_fits(
    codec: str, augmentations: int, row_bytes: int, latent_replay: bool
) -> None:
    plan = plan_of(CARTPOLE, encoder="impala", freeze_layers=15, latent_codec=codec, augmentations=augmentations)
    assert (plan.latent_row_bytes, plan.latent_replay) == (row_bytes, latent_replay)
    assert line_of(plan, "freeze (T_f)").endswith(", the lowest 15 of 16 weight layers")
    if latent_replay:
        assert plan.latent_capacity == 30_000_000 // row_bytes
        assert plan.warnings == ()
        assert f"{plan.latent_capacity:,} rows (" in line_of(plan, "capacity after the freeze (C_hat)")
    else:
        warning, *_ = plan.warnings  # the head of sac-ae is too large to export, too
        assert "the replay keeps frames" in warning


def test_freezing_all_layers_by_number_is_the_whole_freeze() -> None:
    for env, layers in ((CARTPOLE, 5), (ALIEN, 2)):
        numbered, plain = plan_of(env, freeze_layers=layers), plan_of(env)
        assert numbered.rows() == plain.rows()
        assert numbered.latent_replay
    first = plan_of(freeze_layers=1)  # 32 maps of 16x16 instead of 64 of 3x3
    assert (first.latent_row_bytes, first.latent_replay) == (4 * 8_192, False)


def test_a_cut_that_the_encoder_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(
        BadInputError, match=r"--freeze-layers 2 --encoder impala: .*choose one of 1, 3, 5, 6,.* 15, 16$"
    ):
        plan_of(CARTPOLE, encoder="impala", freeze_layers=2)
    with pytest.raises(BadInputError, match=r"--freeze-layers 3 --encoder data-efficient: .*choose one of 1, 2$"):
        plan_of(freeze_layers=3)


# --- an imported encoder -----------------------------------------------------------------------------------


def test_an_imported_encoder_gives_a_latent_replay_from_the_first_row() -> None:
    plan, trained = plan_of(WALKER, source="runs/walker-stand"), plan_of(WALKER)
    assert plan.latent_replay
    assert (plan.latent_capacity, plan.arena_bytes) == (trained.latent_capacity, trained.arena_bytes)
    assert line_of(plan, "freeze (T_f)") == "step 0: the encoder of runs/walker-stand"
    assert line_of(plan, "capacity after the freeze (C_hat)") == ("37,500 rows (18.75x), the replay holds latents only")
    column_bytes = 6 * 4 + 6
    assert plan.columns_bytes == 37_500 * column_bytes
    assert trained.columns_bytes == (2_000 + 37_500) * column_bytes
    assert plan.workspace_bytes < trained.workspace_bytes
    assert plan.warnings == ()


def test_imported_layers_whose_latents_are_larger_than_frames_leave_a_replay_of_frames() -> None:
    plan = plan_of(WALKER, source="runs/walker-stand", freeze_layers=4)
    assert not plan.latent_replay
    assert plan.columns_bytes == 2_000 * (6 * 4 + 6)
    assert line_of(plan, "freeze (T_f)") == "step 0: the encoder of runs/walker-stand, the lowest 4 of 5 weight layers"


# --- the smallest budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["data-efficient", "canonical"])
def test_the_smallest_budget_that_is_named_is_enough(encoder: str) -> None:
    """The refusal names a number of bytes; with it the plan is made, with one less it is not."""
    with pytest.raises(
        BadInputError, match=r"--mem-budget 1000 B: cannot hold one batch of 32 .* give at least \d+ B, "
    ) as refusal:
        plan_of(mem_budget_bytes=1_000, encoder=encoder)
    needed = int(re.findall(r"at least (\d+) B", str(refusal.value))[0])
    plan = plan_of(mem_budget_bytes=needed, encoder=encoder)
    assert min(plan.frame_capacity, plan.latent_capacity) >= 32 + 20 + 3
    with pytest.raises(BadInputError, match=f"give at least {needed}"):
        plan_of(mem_budget_bytes=needed - 1, encoder=encoder)
    never = plan_of(mem_budget_bytes=55 * 7_056, encoder=encoder, freeze_at="never")
    assert never.frame_capacity == 55


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({}, 131 * 30_000),
        ({"freeze_layers": 4}, 131 * 30_000),
        ({"source": "runs/x"}, -(-131 * 1_600 // 30_000) * 30_000),
        ({"source": "runs/x", "latent_codec": "float16", "augmentations": 1}, 30_000),
        ({"source": "runs/x", "freeze_layers": 4}, 131 * 30_000),
    ],
)
def test_the_smallest_budget_of_control_is_enough(given: dict[str, Any], needed: int) -> None:
    """131 windows of frames, or of latents where no frame is ever stored: then a twentieth of the bytes will do."""
    with pytest.raises(
        BadInputError, match=f"cannot hold one batch of 128 windows of 1 steps, 131 .*least {needed} B, "
    ):
        plan_of(CARTPOLE, mem_budget_bytes=needed - 1, **given)
    plan = plan_of(CARTPOLE, mem_budget_bytes=needed, **given)
    assert plan.latent_capacity >= 131 if plan.latent_replay else plan.frame_capacity == 131


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (gray(20, 20), "frames of 20x20 are too small"),
        (gray(84, 3), "frames of 84x3 are too small"),
        (gray(7, 7), "frames of 7x7 are too small .* use a larger --resolution or another encoder"),
    ],
)
def test_frames_that_do_not_fit_the_encoder_are_refused(env: EnvSpec, message: str) -> None:
    with pytest.raises(BadInputError, match=f"--encoder data-efficient: .*{message}"):
        plan_of(env)
