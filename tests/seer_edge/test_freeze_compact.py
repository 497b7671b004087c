"""The freeze of a session with `--store compact`, held against the log of its environment."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seer_edge.config.plan import make_plan
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import FreezeRefusedError
from seer_edge.training.session import resume_session
from seer_runtime import durable
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.block_index import guaranteed_rows
from seer_runtime.replay.samplers import PrioritizedSampler
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from tests.seer_edge.freeze_rig import LARGE, Rig, assert_rows, assert_same, check_failed_conversion, snapshot

pytestmark = pytest.mark.integration

COMPACT = {"store": "compact"}


@pytest.mark.parametrize(("last_step", "at_least"), [("", 1), ("truncated", 57), ("terminated", 110)])
def test_every_row_is_the_latent_of_its_stack(rig: Callable[..., Rig], last_step: str, at_least: int) -> None:
    """The frames are noise, so the arena holds no more of them than it guarantees."""
    run = rig(**COMPACT)
    run.until(last_step, at_least)
    before, encoder = run.held(), run.encoder()
    assert run.plan.frame_capacity == 48
    assert len(before) <= 48 + 8
    run.freeze()
    reach = run.plan.config.settings.stack - 1
    whole = [row for row in before if row - min(run.env.rows()[row][1], reach) >= before[0]]
    assert run.held().tolist() == list(range(whole[0] if whole else before[-1] + 1, before[-1] + 1))
    assert_rows(run, encoder)
    run.steps(40)
    assert_rows(run, encoder)


@pytest.mark.parametrize(
    ("given", "tolerance"),
    [
        ({"spec": LARGE, "encoder": "canonical", "latent_codec": "float16"}, 5e-4),
        ({"agent": "rainbow", "pipeline": True, "replay": "prioritized"}, 1e-4),
        ({"agent": "curl-sac", "augmentations": 1, "lives": True}, 1e-4),
        pytest.param({"agent": "curl-sac", "augmentations": 15}, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_other_codecs_encoders_and_samplers_convert(
    build_rig: Callable[..., Rig], given: dict[str, Any], tolerance: float
) -> None:
    run = build_rig(**COMPACT, **given)
    run.steps(100)
    encoder = run.encoder()
    report = run.freeze()
    assert report.rows == len(run.held()) > 20
    assert_rows(run, encoder, tolerance=tolerance)
    run.steps(60)
    assert_rows(run, encoder, tolerance=tolerance)


def test_latents_larger_than_frames_keep_the_newest_rows(build_rig: Callable[..., Rig]) -> None:
    run = build_rig(**COMPACT, spec=LARGE, encoder="canonical", replay="prioritized")
    run.steps(100)
    encoder, before, sampler = run.encoder(), run.held(), run.session.replay.sampler
    assert run.plan.latent_row_bytes > run.plan.frame_row_bytes
    run.freeze()
    kept = run.held()
    assert kept.tolist() == before[-len(kept) :].tolist()
    assert run.plan.latent_capacity <= len(kept) <= len(before)
    assert_rows(run, encoder)
    assert isinstance(sampler, PrioritizedSampler)
    assert sampler._tree.total == pytest.approx(sampler.priorities(kept).sum())
    run.steps(60)
    assert_rows(run, encoder)


def test_the_freeze_stays_within_the_plan(build_rig: Callable[..., Rig]) -> None:
    for given in ({"latent_codec": "uint8"}, {"agent": "curl-sac", "replay": "prioritized"}):
        run = build_rig(**COMPACT, **given)
        session, ledger, plan = run.session, run.session.ledger, run.plan
        run.steps(100)
        arena = session.replay.store.arena
        address = arena.bytes.ctypes.data
        run.freeze()
        run.steps(10)
        assert session.replay.store.arena is arena
        assert arena.bytes.ctypes.data == address
        assert ledger.peak_bytes(Line.OBSERVATIONS) == plan.arena_bytes == plan.config.mem_budget_bytes
        assert ledger.peak_bytes(Line.WORKSPACE) <= plan.workspace_bytes <= WORKSPACE_CAP_BYTES
        for line, planned in (
            (Line.INDEX, plan.index_bytes),
            (Line.COLUMNS, plan.columns_bytes),
            (Line.PRIORITIES, plan.priorities_bytes),
        ):
            assert ledger.held_bytes(line) == ledger.peak_bytes(line) == planned, line
        written = run.save()
        assert sum(file.stat().st_size for file in written.iterdir()) <= plan.checkpoint_bytes


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room_bytes", [0, 16_000])
def test_too_little_workspace_refuses_the_freeze_and_changes_nothing(
    build_rig: Callable[..., Rig], room_bytes: int
) -> None:
    run = build_rig(**COMPACT, replay="prioritized")
    run.until("", 100)
    ledger = run.session.ledger
    taken = MAX_BATCH * int(np.prod(run.plan.encoder.latent_shape)) * 4 + room_bytes
    ledger.allocate(Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - taken, np.uint8)
    before = snapshot(run)
    with pytest.raises(FreezeRefusedError, match=r"workspace: .* would exceed the cap"):
        run.freeze()
    assert_same(snapshot(run), before)
    run.steps(20)


@pytest.mark.parametrize("chunk", [1, 5])
def test_a_failed_conversion_stops_the_run_and_keeps_a_checkpoint(
    build_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    run = build_rig(**COMPACT)
    run.steps(100)
    before, state = snapshot(run), run.session.replay.state()
    stored = {name: array.copy() for name, array in state.arrays.items()}

    saved = check_failed_conversion(run, monkeypatch, chunk, before)
    assert_same(durable.read_tensors(saved.path / checkpoint.REPLAY), stored)


# --- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
def test_resume_with_a_smaller_budget_keeps_the_newest_rows(build_rig: Callable[..., Rig], frozen: bool) -> None:
    run = build_rig(**COMPACT, latent_codec="float32")
    run.steps(100)
    if frozen:
        run.freeze()
        run.steps(60)
    budget = 3 * 8 * run.plan.frame_row_bytes
    before, path = run.held(), run.save()
    config = dataclasses.replace(run.plan.config, mem_budget_bytes=budget)
    plan = make_plan(config, run.plan.env)
    session, notes = resume_session(plan, checkpoint.newest(path.parent))
    smaller = dataclasses.replace(run, plan=plan, session=session)
    held = smaller.held()
    # The environment saves no state, so the interrupted episode may have got a final row.
    kept = held[held <= before[-1]]
    assert len(held) - len(kept) <= 1
    if frozen:
        assert kept.tolist() == before.tolist()  # all latents fit
        np.testing.assert_array_equal(smaller.latents(kept), run.latents(kept))
    else:
        assert kept.tolist() == before[-len(kept) :].tolist()
        assert len(kept) >= guaranteed_rows(budget, run.plan.frame_row_bytes)
        assert len(kept) < len(before)
    assert ("dropped the oldest" in " ".join(notes)) == (not frozen)
    assert session.ledger.peak_bytes(Line.OBSERVATIONS) == budget
    session.env.close()
