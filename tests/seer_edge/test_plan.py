"""The byte plan: the table of capacities, what it warns of, what it refuses, and a real session's bytes beside it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.agents import make_agent
from seer_edge.config.config import build_config
from seer_edge.config.plan import ACTIVATION_FACTOR, CHECKPOINT_BASE_BYTES, BytePlan, make_plan
from seer_edge.config.presets import RainbowSettings
from seer_edge.envs import Continuous, Discrete, EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.networks.flops import QLearningFlops
from seer_edge.networks.graph import encoder_graph
from seer_edge.runs import checkpoint
from seer_edge.runs.transfer import Imported, ImportedEncoder
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.freeze import freeze
from seer_edge.training.imports import build_imported_session
from seer_edge.training.session import build_session
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.units import format_size

pytestmark = pytest.mark.integration

ALIEN = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18))
CARTPOLE = EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", (3, 100, 100), (84, 84), Continuous(1))
WALKER = EnvSpec("dm_control/walker-walk-v0", "walker-walk", (3, 100, 100), (84, 84), Continuous(6))
CODECS = ("float32", "float16", "uint8", "uint4")
CARTPOLE_50 = EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", (3, 50, 50), (42, 42), Continuous(1))


def _gray(height: int, width: int) -> EnvSpec:
    return EnvSpec("Any-v0", "Any", (height, width), (height, width), Discrete(3))


def _plan(env: EnvSpec = ALIEN, **given: Any) -> BytePlan:
    return make_plan(build_config(env, **given), env)


def _line(plan: BytePlan, label: str) -> str:
    """The value of one line of the table that is shown."""
    (line,) = [line for line in plan.render().splitlines() if line.startswith(f"  {label} ")]
    return line.removeprefix(f"  {label} ").strip()


# --- Atari -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "row_bytes", "latent_capacity"),
    [("float32", 2_304, 30_380), ("float16", 1_152, 60_760), ("uint8", 576, 121_520), ("uint4", 288, 243_040)],
)
def test_capacities_are_those_of_the_formula(codec: str, row_bytes: int, latent_capacity: int) -> None:
    plan = _plan(mem_budget_bytes=70_000_000, latent_codec=codec)
    assert plan.frame_row_bytes == 7_056
    assert plan.frame_capacity == 70_000_000 // 7_056 == 9_920
    assert plan.latent_row_bytes == row_bytes
    assert plan.latent_capacity == 9_920 * 7_056 // row_bytes == latent_capacity
    assert plan.arena_bytes == 9_920 * 7_056 <= 70_000_000
    assert plan.warnings == ()


def test_before_the_choice_of_a_codec_all_are_shown_and_the_most_is_planned_for() -> None:
    plan, named = _plan(latent_codec="auto"), [_plan(latent_codec=name) for name in CODECS]
    assert _line(plan, "bytes a latent (b N K L)") == "2,304, 1,152, 576, 288 (L = 576, N = 1, K = 1, auto)"
    *wider, densest = _line(plan, "capacity after the freeze (C_hat)").split("x), ")
    assert wider == ["float32 30,380 rows (3.06", "float16 60,760 rows (6.12", "uint8 121,520 rows (12.25"]
    assert densest == "uint4 243,040 rows (24.50x)"
    assert plan.choices == tuple(named)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (2_304, 30_380)
    for line in ("columns_bytes", "priorities_bytes", "workspace_bytes", "most_rows", "rss_peak_bytes"):
        assert getattr(plan, line) >= max(getattr(other, line) for other in named)
    assert plan.most_rows == 243_040
    assert plan.checkpoint_bytes == max(other.checkpoint_bytes for other in named)
    assert plan.warnings == ()


def test_auto_warns_of_what_it_may_do_to_the_capacity() -> None:
    (warning,) = _plan(encoder="canonical", latent_codec="auto").warnings
    assert warning.startswith(
        "--latent-codec auto: the freeze may shrink the capacity from 9,920 to 5,580 rows; it grows"
    )
    layers = {"freeze_layers": 2, "encoder": "canonical", "mem_budget_bytes": 1_000_000}
    some, none = (_plan(_gray(42, 42), latent_codec=codec, **layers) for codec in ("auto", "float32"))
    assert (some.latent_replay, none.latent_replay) == (True, False)
    assert some.warnings == ()
    assert "float32 566 rows: the replay keeps frames, float16 " in _line(some, "capacity after the freeze (C_hat)")
    (warning,) = _plan(CARTPOLE, latent_codec="auto", freeze_layers=4).warnings
    assert "so the replay keeps frames" in warning


@pytest.mark.parametrize("budget", [70_560_000, 1_000_000, 999_999, 7_056 * 1_000, 7_056 * 1_000 - 1])
def test_capacities_never_exceed_the_budget(budget: int) -> None:
    for codec in ("float32", "float16", "uint8", "uint4"):
        for encoder in ("data-efficient", "canonical"):
            plan = _plan(mem_budget_bytes=budget, latent_codec=codec, encoder=encoder)
            assert plan.frame_capacity * 7_056 <= budget < (plan.frame_capacity + 1) * 7_056
            assert plan.latent_capacity * plan.latent_row_bytes <= plan.arena_bytes <= budget
            assert (plan.latent_capacity + 1) * plan.latent_row_bytes > plan.arena_bytes


def test_a_canonical_encoder_shrinks_the_replay_and_the_plan_says_what_does_not() -> None:
    plan = _plan(encoder="canonical")
    assert plan.latent_row_bytes == 4 * 3_136
    assert plan.latent_capacity == 5_580
    assert plan.latent_capacity / plan.frame_capacity == 0.5625
    (warning,) = plan.warnings
    assert "float32: the freeze will shrink the capacity from 9,920 to 5,580 rows" in warning
    assert "it grows with float16 (11,160 rows), uint8 (22,320 rows), uint4 (44,640 rows)" in warning
    assert "float32 (" not in warning
    assert "0.56x" in plan.render()
    assert f"warning: {warning}" in plan.render()

    halved = _plan(encoder="canonical", latent_codec="float16")
    assert halved.latent_capacity == 11_160
    assert halved.warnings == ()
    assert _plan(encoder="canonical", freeze_at="never").warnings == ()


@pytest.mark.parametrize("codec", ["float32", "auto"])
def test_a_plan_warns_of_a_head_too_large_for_a_bundle(codec: str) -> None:
    """sac-ae at 84x84 has 39,200 latent elements: a matrix of 80 MB under Rainbow."""
    *_, warning = _plan(encoder="sac-ae", latent_codec=codec).warnings
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


def test_every_frame_size_is_warned_of_where_its_latents_are_larger() -> None:
    seen = set()
    for side in range(36, 85):
        plan = _plan(_gray(side, side), encoder="canonical")
        shrinks = plan.latent_row_bytes > side * side
        assert bool(plan.warnings) == shrinks == (plan.latent_capacity < plan.frame_capacity)
        seen.add(shrinks)
    assert seen == {True, False}


def test_a_freeze_before_learning_starts_is_warned_of() -> None:
    assert any("--freeze-at 1600: learning starts at step 1,600" in line for line in _plan(freeze_at=1_600).warnings)
    assert _plan(freeze_at=1_601).warnings == ()
    assert any("learning starts at step 1,000" in line for line in _plan(CARTPOLE, freeze_at=1_000).warnings)
    assert _plan(CARTPOLE, freeze_at=1_001).warnings == ()


def test_atari_at_42() -> None:
    """A quarter of the frame's bytes and, for the encoder's last map of 1x1, a ninth of the latent's."""
    plan = _plan(EnvSpec("ALE/Alien-v5", "Alien", (42, 42), (42, 42), Discrete(18)))
    assert (plan.frame_row_bytes, plan.frame_capacity) == (1_764, 39_682)
    assert (plan.encoder.latent_shape, plan.latent_row_bytes) == ((1, 64), 256)
    assert plan.latent_capacity == 39_682 * 1_764 // 256 == 273_433
    assert "frames 42x42, " in _line(plan, "environment")
    assert "crops" not in _line(plan, "environment")


# --- continuous control ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env", "capacity"), [(CARTPOLE, 1_000), (WALKER, 2_000)])
def test_capacities_on_control_are_those_of_the_formula(env: EnvSpec, capacity: int) -> None:
    plan = _plan(env)  # the preset: 0.03 GB and 0.06 GB
    assert (plan.config.mem_budget_bytes, plan.frame_row_bytes) == (capacity * 30_000, 30_000)
    assert (plan.frame_capacity, plan.arena_bytes) == (capacity, capacity * 30_000)
    assert (plan.encoder.latent_shape, plan.config.augmentations) == ((2, 50), 4)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (4 * 2 * 4 * 50, capacity * 75 // 4)
    assert plan.latent_capacity == {1_000: 18_750, 2_000: 37_500}[capacity]
    assert plan.latent_replay
    assert plan.warnings == ()
    halved = _plan(env, latent_codec="float16")
    assert (halved.latent_row_bytes, halved.latent_capacity) == (800, {1_000: 37_500, 2_000: 75_000}[capacity])
    for codec, factor in {"uint8": 4, "uint4": 8}.items():
        dense = _plan(env, latent_codec=codec)
        assert (dense.latent_row_bytes, dense.latent_capacity) == (1_600 // factor, plan.latent_capacity * factor)


@pytest.mark.parametrize("augmentations", [1, 2, 4, 15])
def test_each_augmentation_is_stored(augmentations: int) -> None:
    plan = _plan(CARTPOLE, augmentations=augmentations)
    assert plan.latent_row_bytes == 400 * augmentations
    assert plan.latent_capacity == 30_000_000 // (400 * augmentations)
    assert f"K = {augmentations}, " in _line(plan, "bytes a latent (b N K L)")


def test_resolution_50_gives_four_times_the_frames_and_as_many_latents() -> None:
    plan = _plan(CARTPOLE_50)
    assert (plan.frame_row_bytes, plan.frame_capacity) == (7_500, 4_000)
    assert (plan.latent_row_bytes, plan.latent_capacity) == (1_600, 18_750)
    assert plan.crop.size == (42, 42)
    assert "frames 3x50x50, crops of 42x42" in _line(plan, "environment")


def test_the_table_of_control_shows_k_n_and_l() -> None:
    plan = _plan(CARTPOLE)
    assert _line(plan, "bytes a latent (b N K L)") == "1,600 (L = 50, N = 2, K = 4, float32)"
    assert _line(plan, "bytes a frame (P)") == "30,000"
    assert _line(plan, "capacity before the freeze (C)") == "1,000 rows"
    assert _line(plan, "capacity after the freeze (C_hat)") == "18,750 rows (18.75x)"
    assert _line(plan, "freeze (T_f)").startswith("step 10,000 of 62,500 (preset cartpole-swingup, ")
    environment = _line(plan, "environment")
    for shown in ("1 continuous action,", "frames 3x100x100, crops of 84x84", "action repeat 8"):
        assert shown in environment
    assert _line(plan, "agent").startswith("curl-sac, encoder sac-ae, uniform replay")
    assert "walker-walk-v0, 6 continuous actions, " in _line(_plan(WALKER), "environment")


def test_workspace_above_its_cap_is_refused_before_the_run_and_not_at_its_freeze() -> None:
    """The conversion of K crops a row and the minibatch of frames do not fit beside each other any more."""

    def at(resolution: int) -> EnvSpec:
        crop = resolution * 84 // 100
        return EnvSpec("Big-v0", "big", (3, resolution, resolution), (crop, crop), Continuous(1))

    assert _plan(at(175)).workspace_bytes <= WORKSPACE_CAP_BYTES == 8_000_000
    with pytest.raises(
        BadInputError, match=r"--resolution 200: stacks of 3 frames of 3x200x200 need [0-9,]+ B of workspace"
    ):
        _plan(at(200))


# --- every encoder with either agent -----------------------------------------------------------------------

LAST_MAP = {"data-efficient": 64 * 3 * 3, "canonical": 64 * 7 * 7, "sac-ae": 32 * 35 * 35, "impala": 32 * 11 * 11}


@pytest.mark.parametrize("codec", ["float32", "float16", "uint8", "uint4"])
@pytest.mark.parametrize("encoder", LAST_MAP)
def test_any_encoder_with_rainbow_stores_its_last_map(encoder: str, codec: str) -> None:
    element_bytes = {"float32": 4, "float16": 2, "uint8": 1, "uint4": 0.5}[codec]
    plan = _plan(encoder=encoder, latent_codec=codec)
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
def test_any_encoder_with_curl_sac_stores_what_its_fcs_give(encoder: str) -> None:
    plan = _plan(CARTPOLE, encoder=encoder)
    assert plan.encoder.latent_shape == (2, 50)
    assert plan.encoder.flat_size == LAST_MAP[encoder]
    assert (plan.latent_row_bytes, plan.latent_capacity) == (1_600, 18_750)
    assert plan.warnings == ()
    assert f"encoder {encoder}, " in _line(plan, "agent")


@pytest.mark.parametrize("encoder", LAST_MAP)
@pytest.mark.parametrize(("env", "algo"), [(ALIEN, "rainbow"), (CARTPOLE_50, "curl-sac"), (CARTPOLE_50, "sac")])
def test_model_and_optimizer_are_those_of_the_agent(env: EnvSpec, algo: str, encoder: str) -> None:
    plan = _plan(env, algo=algo, encoder=encoder)
    agent = make_agent(plan, seed=0)
    optimizers = [agent.optimizer] if algo == "rainbow" else agent.optimizers.values()
    optimized = [parameter for optimizer in optimizers for parameter in optimizer.parameters.values()]
    trained = sum(parameter.numel() for parameter in set(optimized))
    weights = [tensor for name, tensor in agent.tensors() if "optimizer." not in name and ".noise_" not in name]
    assert plan.model_bytes == 4 * sum(tensor.numel() for tensor in weights)
    assert plan.networks.parameters == trained
    assert plan.optimizer_bytes == 4 * (trained + 2 * sum(parameter.numel() for parameter in optimized))


# --- a freeze of fewer layers (Appendix D) -----------------------------------------------------------------


def test_latents_that_are_larger_than_frames_leave_a_replay_of_frames() -> None:
    plan = _plan(CARTPOLE, freeze_layers=4)  # the paper's four convolutions
    assert plan.encoder.latent_shape == (1, 39_200)
    assert not plan.latent_replay
    assert plan.latent_row_bytes == 4 * 4 * 39_200
    (warning,) = plan.warnings
    assert warning == (
        "--freeze-layers 4: a latent of 627,200 B is larger than a frame of 30,000 B, so the replay keeps frames: "
        "the freeze saves compute, not memory"
    )
    assert _line(plan, "capacity after the freeze (C_hat)") == "1,000 rows: the replay keeps frames"
    assert _line(plan, "freeze (T_f)").endswith(", the lowest 4 of 5 weight layers")
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
    plan = _plan(CARTPOLE, encoder="impala", freeze_layers=15, latent_codec=codec, augmentations=augmentations)
    assert (plan.latent_row_bytes, plan.latent_replay) == (row_bytes, latent_replay)
    assert _line(plan, "freeze (T_f)").endswith(", the lowest 15 of 16 weight layers")
    if latent_replay:
        assert plan.latent_capacity == 30_000_000 // row_bytes
        assert plan.warnings == ()
        assert f"{plan.latent_capacity:,} rows (" in _line(plan, "capacity after the freeze (C_hat)")
    else:
        warning, *_ = plan.warnings  # the head of sac-ae is too large to export, too
        assert "the replay keeps frames" in warning


def test_freezing_all_layers_by_number_is_the_whole_freeze() -> None:
    for env, layers in ((CARTPOLE, 5), (ALIEN, 2)):
        numbered, plain = _plan(env, freeze_layers=layers), _plan(env)
        assert numbered.rows() == plain.rows()
        assert numbered.latent_replay
    first = _plan(freeze_layers=1)  # 32 maps of 16x16 instead of 64 of 3x3
    assert (first.latent_row_bytes, first.latent_replay) == (4 * 8_192, False)


def test_a_cut_that_the_encoder_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(
        BadInputError, match=r"--freeze-layers 2 --encoder impala: .*choose one of 1, 3, 5, 6,.* 15, 16$"
    ):
        _plan(CARTPOLE, encoder="impala", freeze_layers=2)
    with pytest.raises(BadInputError, match=r"--freeze-layers 3 --encoder data-efficient: .*choose one of 1, 2$"):
        _plan(freeze_layers=3)


# --- a taken encoder ---------------------------------------------------------------------------------------


def test_a_taken_encoder_gives_a_latent_replay_from_the_first_row() -> None:
    plan, trained = _plan(WALKER, source="runs/walker-stand"), _plan(WALKER)
    assert plan.latent_replay
    assert (plan.latent_capacity, plan.arena_bytes) == (trained.latent_capacity, trained.arena_bytes)
    assert _line(plan, "freeze (T_f)") == "step 0: the encoder of runs/walker-stand"
    assert _line(plan, "capacity after the freeze (C_hat)") == (
        "37,500 rows (18.75x), the replay holds latents from the first row"
    )
    column_bytes = 6 * 4 + 6
    assert plan.columns_bytes == 37_500 * column_bytes
    assert trained.columns_bytes == (2_000 + 37_500) * column_bytes
    assert plan.workspace_bytes < trained.workspace_bytes
    assert plan.warnings == ()


def test_taken_layers_whose_latents_are_larger_than_frames_leave_a_replay_of_frames() -> None:
    plan = _plan(WALKER, source="runs/walker-stand", freeze_layers=4)
    assert not plan.latent_replay
    assert plan.columns_bytes == 2_000 * (6 * 4 + 6)
    assert _line(plan, "freeze (T_f)") == "step 0: the encoder of runs/walker-stand, the lowest 4 of 5 weight layers"


# --- the smallest budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["data-efficient", "canonical"])
def test_the_smallest_budget_that_is_named_is_enough(encoder: str) -> None:
    """The refusal names a number of bytes; with it the plan is made, with one less it is not."""
    with pytest.raises(
        BadInputError, match=r"--mem-budget 1000 B: cannot hold one batch of 32 .* give at least \d+$"
    ) as refusal:
        _plan(mem_budget_bytes=1_000, encoder=encoder)
    needed = int(str(refusal.value).split()[-1])
    plan = _plan(mem_budget_bytes=needed, encoder=encoder)
    assert min(plan.frame_capacity, plan.latent_capacity) >= 32 + 20 + 3
    with pytest.raises(BadInputError, match=f"give at least {needed}"):
        _plan(mem_budget_bytes=needed - 1, encoder=encoder)
    never = _plan(mem_budget_bytes=55 * 7_056, encoder=encoder, freeze_at="never")
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
    with pytest.raises(BadInputError, match=f"cannot hold one batch of 128 windows of 1 steps, 131 .*least {needed}$"):
        _plan(CARTPOLE, mem_budget_bytes=needed - 1, **given)
    plan = _plan(CARTPOLE, mem_budget_bytes=needed, **given)
    assert plan.latent_capacity >= 131 if plan.latent_replay else plan.frame_capacity == 131


@pytest.mark.parametrize(
    ("env", "message"),
    [(_gray(20, 20), "frames of 20x20 are too small"), (_gray(84, 3), "frames of 84x3 are too small")],
)
def test_frames_that_the_encoder_cannot_take_are_refused(env: EnvSpec, message: str) -> None:
    with pytest.raises(BadInputError, match=f"--encoder data-efficient: .*{message}"):
        _plan(env)


# --- bytes beside the replay -------------------------------------------------------------------------------


def test_model_and_optimizer_are_two_and_three_copies_of_the_parameters() -> None:
    plan = _plan()
    encoder = 32 * (4 * 25 + 1) + 64 * (32 * 25 + 1)
    head = 2 * (2 * (576 + 1) * 256 + (256 + 1) * 51 * 19)
    assert plan.model_bytes == 2 * 4 * (encoder + head)
    assert plan.optimizer_bytes == 3 * 4 * (encoder + head)


def _imported(plan: BytePlan) -> Imported:
    """An encoder that fits the plan."""
    rng = np.random.default_rng(1)
    weights = {
        name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in plan.encoder.weight_shapes.items()
    }
    graph = encoder_graph(plan.encoder, weights)
    return Imported(0, ImportedEncoder(dict(make_agent(plan, seed=1).state().arrays), graph))


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (ALIEN, {}),
        (ALIEN, {"freeze_at": "never", "replay": "prioritized"}),
        (ALIEN, {"latent_codec": "uint8"}),
        (ALIEN, {"latent_codec": "uint4", "encoder": "canonical"}),
        (CARTPOLE, {"latent_codec": "uint8"}),
        (CARTPOLE_50, {"latent_codec": "uint4", "augmentations": 15}),
        (CARTPOLE, {}),
        (CARTPOLE, {"freeze_at": "never"}),
        (CARTPOLE, {"freeze_layers": 2}),
        (CARTPOLE, {"source": "runs/x"}),
        (CARTPOLE, {"augmentations": 1, "latent_codec": "float16", "encoder": "impala", "freeze_layers": 15}),
        (CARTPOLE_50, {"replay": "prioritized", "augmentations": 15}),
    ],
)
def test_a_session_holds_what_was_planned_to_the_byte(env: EnvSpec, given: dict[str, Any], tmp_path: Path) -> None:
    """Real frames, a real freeze and an evaluation beside it; learning has not begun, which changes no array."""
    config = build_config(env, resolution=env.frame_shape[-1], seed=3, **given)
    plan = make_plan(config, env)
    session = build_session(plan) if config.source is None else build_imported_session(plan, _imported(plan))
    try:
        for _ in range(12):
            session.step()
        evaluate_session(plan, session, lambda: True, lambda count: None)
        if config.freeze_at:
            freeze(
                session,
                tmp_path / "encoder.onnx",
                lambda: checkpoint.save(session.snapshot(), tmp_path / "checkpoints"),
            )
            session.step()
            evaluate_session(plan, session, lambda: True, lambda count: None)
        planned = {
            Line.OBSERVATIONS: plan.arena_bytes,
            Line.WORKSPACE: plan.workspace_bytes,
            Line.COLUMNS: plan.columns_bytes,
        }
        assert {line: session.ledger.peak_bytes(line) for line in planned} == planned
        assert session.ledger.peak_bytes(Line.PRIORITIES) <= plan.priorities_bytes
    finally:
        session.env.close()


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (ALIEN, {"mem_budget_bytes": 400_000, "replay": "prioritized"}),
        (ALIEN, {"mem_budget_bytes": 400_000, "latent_codec": "float16"}),
        (ALIEN, {"mem_budget_bytes": 400_000, "latent_codec": "uint4"}),
        (CARTPOLE_50, {"mem_budget_bytes": 1_000_000}),
        (CARTPOLE_50, {"mem_budget_bytes": 1_000_000, "encoder": "impala", "freeze_layers": 15, "algo": "sac"}),
    ],
)
def test_a_checkpoint_takes_what_was_planned_and_no_more(env: EnvSpec, given: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(env, resolution=env.frame_shape[-1], total_timesteps=2_000, freeze_at=1_900, **given)
    plan = make_plan(config, env)
    session = build_session(plan)

    def saved_bytes() -> int:
        path = checkpoint.save(session.snapshot(), tmp_path / "checkpoints")
        return sum(file.stat().st_size for file in path.iterdir())

    try:
        for _ in range(plan.frame_capacity):
            session.step()
        of_frames = saved_bytes()
        freeze(session, tmp_path / "encoder.onnx", lambda: checkpoint.save(session.snapshot(), tmp_path / "freeze"))
        for _ in range(5):
            session.step()
        of_latents = saved_bytes()
    finally:
        session.env.close()
    # The largest one would hold a replay full of frames, columns of as many latents, and the graph.
    graph_bytes = plan.encoder.frozen_parameters * 4 if plan.latent_replay else 0
    columns_bytes = plan.columns_bytes + plan.latent_capacity * 8
    assert plan.checkpoint_bytes - graph_bytes - columns_bytes - CHECKPOINT_BASE_BYTES < of_frames
    assert max(of_frames, of_latents) <= plan.checkpoint_bytes


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
def test_what_is_written_in_an_hour(given: dict[str, Any], checkpoints_an_hour: float, every: str) -> None:
    plan = _plan(**given)
    written = format_size(round(checkpoints_an_hour * plan.checkpoint_bytes))
    assert _line(plan, "written an hour") == f"at most {written} (a checkpoint every {every})"
    assert _line(plan, "a checkpoint") == f"at most {format_size(plan.checkpoint_bytes)}; two are kept"


# --- the whole table ---------------------------------------------------------------------------------------


def test_the_table_shows_every_line() -> None:
    text = _plan(replay="prioritized").render()
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
    assert " never " in _plan(freeze_at="never").render()


def test_limits_are_shown_where_there_are_any() -> None:
    plan = _plan()
    assert "limit" not in plan.render()
    assert "this machine" not in plan.render()
    assert _line(_plan(rss_limit_bytes=512_000_000), "RSS limit") == "512,000,000 B"
    shown = plan.render(MemoryLimits(4 * 10**9, 3 * 10**9, cgroup_bytes=10**9)).splitlines()
    assert shown[:-1] == plan.render().splitlines()
    assert shown[-1].startswith("  memory of this machine  ")
    assert shown[-1].endswith("  4.0 GB, of which 3.0 GB are available; cgroup limit 1.0 GB")


def test_flops_are_of_this_plan() -> None:
    flops = _plan().flops
    assert isinstance(flops, QLearningFlops)
    assert (flops.encoder, flops.head, flops.batch_size, flops.frame_capacity) == (1_280_000, 542_976, 32, 9_920)
    assert flops.after_freeze == 89_979_136


def test_an_agent_that_cannot_act_in_the_environment_is_refused() -> None:
    for env, other in ((ALIEN, CARTPOLE), (CARTPOLE, ALIEN)):
        with pytest.raises(BadInputError, match=rf"^--algo [\w-]+: {other.name} has \w+ actions; use --algo "):
            make_plan(build_config(env), other)


def test_a_freeze_at_the_last_step_is_warned_of() -> None:
    (warning,) = _plan(total_timesteps=3_000, freeze_at=3_000).warnings
    assert warning == "--freeze-at 3000: is the last step, so the agent never learns from latents"
    assert _plan(total_timesteps=3_000, freeze_at=2_999).warnings == ()


def test_the_peak_names_what_an_update_and_the_renderer_take() -> None:
    plan = _plan(CARTPOLE)
    maps = 32 * (41**2 + 39**2 + 37**2 + 35**2)
    assert plan.activation_bytes == round(ACTIVATION_FACTOR * 128 * 4 * maps)
    rendered = _plan(dataclasses.replace(CARTPOLE, process_bytes=10**9))
    assert rendered.rss_peak_bytes == plan.rss_peak_bytes + 10**9
    assert rendered.anon_peak_bytes == plan.anon_peak_bytes + 10**9
    assert plan.arena_bytes < plan.anon_peak_bytes < plan.rss_peak_bytes
    assert f"{plan.activation_bytes:,} B" in plan.render()
    assert _plan(CARTPOLE, source="elsewhere").activation_bytes == 0
    assert _plan(CARTPOLE, source="elsewhere", freeze_layers=4).activation_bytes == plan.activation_bytes


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; from seer_edge.config.config import build_config; from seer_edge.envs import Continuous, EnvSpec;"
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
