"""The byte plan: the table of capacities, what it warns of, and what it refuses."""

import subprocess
import sys
from typing import Any

import pytest

from seer_edge.config import build_config
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.plan import BytePlan, make_plan

ALIEN = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), 18)


def _plan(env: EnvSpec = ALIEN, **given: Any) -> BytePlan:
    height, width = env.frame_shape
    return make_plan(build_config(env=env.id, env_name=env.name, frame_bytes=height * width, **given), env)


@pytest.mark.parametrize(
    ("codec", "row_bytes", "latent_capacity"), [("float32", 2_304, 30_380), ("float16", 1_152, 60_760)]
)
def test_capacities_are_those_of_the_formula(codec: str, row_bytes: int, latent_capacity: int) -> None:
    plan = _plan(mem_budget_bytes=70_000_000, latent_codec=codec)
    assert plan.frame_row_bytes == 7_056
    assert plan.frame_capacity == 70_000_000 // 7_056 == 9_920
    assert plan.latent_row_bytes == row_bytes
    assert plan.latent_capacity == 9_920 * 7_056 // row_bytes == latent_capacity
    assert plan.arena_bytes == 9_920 * 7_056 <= 70_000_000
    assert plan.warnings == ()


@pytest.mark.parametrize("budget", [70_560_000, 1_000_000, 999_999, 7_056 * 1_000, 7_056 * 1_000 - 1])
def test_capacities_never_exceed_the_budget(budget: int) -> None:
    for codec in ("float32", "float16"):
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
    assert "it grows with float16 (11,160 rows)" in warning
    assert "float32 (" not in warning
    assert "0.56x" in plan.render()
    assert f"warning: {warning}" in plan.render()

    halved = _plan(encoder="canonical", latent_codec="float16")
    assert halved.latent_capacity == 11_160
    assert halved.warnings == ()
    assert _plan(encoder="canonical", freeze_at="never").warnings == ()


def test_every_frame_size_is_warned_of_where_its_latents_are_larger() -> None:
    seen = set()
    for side in range(36, 85):
        plan = _plan(EnvSpec("Any-v0", "Any", (side, side), 3), encoder="canonical")
        shrinks = plan.latent_row_bytes > side * side
        assert bool(plan.warnings) == shrinks == (plan.latent_capacity < plan.frame_capacity)
        seen.add(shrinks)
    assert seen == {True, False}


def test_a_freeze_before_learning_starts_is_warned_of() -> None:
    assert any("--freeze-at 1600: learning starts at step 1,600" in line for line in _plan(freeze_at=1_600).warnings)
    assert _plan(freeze_at=1_601).warnings == ()


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
    ("shape", "message"), [((20, 20), "cannot take 20x20 frames"), ((84, 84, 3), r"not frames of shape \(84, 84, 3\)")]
)
def test_frames_that_the_encoder_cannot_take_are_refused(shape: tuple[int, ...], message: str) -> None:
    config = build_config(env="Tiny-v0", env_name="Tiny", frame_bytes=7_056)
    with pytest.raises(BadInputError, match=f"--encoder data-efficient: .*{message}"):
        make_plan(config, EnvSpec("Tiny-v0", "Tiny", shape, 4))


def test_model_and_optimizer_are_two_and_three_copies_of_the_parameters() -> None:
    plan = _plan()
    encoder = 32 * (4 * 25 + 1) + 64 * (32 * 25 + 1)
    head = 2 * (2 * (576 + 1) * 256 + (256 + 1) * 51 * 19)
    assert plan.model_bytes == 2 * 4 * (encoder + head)
    assert plan.optimizer_bytes == 3 * 4 * (encoder + head)


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


def test_flops_are_of_this_plan() -> None:
    flops = _plan().flops
    assert (flops.encoder, flops.head, flops.batch_size, flops.frame_capacity) == (1_280_000, 542_976, 32, 9_920)
    assert flops.after_freeze == 89_979_136


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; from seer_edge.config import build_config; from seer_edge.envs import EnvSpec;"
        "from seer_edge.plan import make_plan;"
        "print(make_plan(build_config(env='E-v0', env_name='E', frame_bytes=7056),"
        "EnvSpec('E-v0', 'E', (84, 84), 4)).render()); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "9,920 rows" in done.stdout
    assert "'numpy'" in done.stdout
    assert "'torch'" not in done.stdout
