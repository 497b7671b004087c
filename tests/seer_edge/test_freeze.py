"""The freeze of a real session. Every kept row is compared with the encoder's output on the environment's own log."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import seer_edge.training.evaluate
import seer_edge.training.freeze
import seer_edge.training.session
from seer_runtime.replay.samplers import PrioritizedSampler
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from tests.runtime.naive_replay import quantizers
from tests.seer_edge.freeze_rig import CAPACITY, KINDS, LARGE, Rig, assert_rows, assert_same, encode, snapshot

pytestmark = pytest.mark.integration

WIDE = dataclasses.replace(KINDS["curl-sac"]["settings"], features=20)


# --- the rows after the freeze ----------------------------------------------------------------------------


LAST_STEPS = ("", "terminated", "truncated")
BEGINNINGS = [(1, ""), (CAPACITY, "terminated"), (137, "truncated")]
LATER = [
    (at_least, last_step)
    for at_least in (1, 20, CAPACITY - 1, CAPACITY, CAPACITY + 1, 100, 137)
    for last_step in LAST_STEPS
    if (at_least, last_step) not in BEGINNINGS
]


@pytest.mark.parametrize(
    ("at_least", "last_step"), [*BEGINNINGS, *(pytest.param(*case, marks=pytest.mark.slow) for case in LATER)]
)
def test_every_row_is_the_latent_of_its_stack(rig: Callable[..., Rig], last_step: str, at_least: int) -> None:
    run = rig(learning_starts=max(90, at_least - 10))
    run.until(last_step, at_least)
    before, encoder = run.held(), run.encoder()
    run.freeze()
    reach = run.plan.config.settings.stack - 1
    whole = [row for row in before if row - min(run.env.rows()[row][1], reach) >= before[0]]
    assert run.held().tolist() == list(range(whole[0] if whole else before[-1] + 1, before[-1] + 1))
    assert len(before) - len(run.held()) <= reach
    assert_rows(run, encoder)
    run.steps(40)
    assert_rows(run, encoder)
    assert set(before) & set(run.held())


@pytest.mark.parametrize(
    ("given", "tolerance", "grows"),
    [
        ({"spec": LARGE, "encoder": "canonical", "latent_codec": "float16"}, 5e-4, True),
        ({"agent": "curl-sac", "encoder": "impala", "seed": 1}, 1e-4, True),
        ({"agent": "rainbow", "pipeline": True, "replay": "prioritized"}, 1e-4, True),
        ({"agent": "curl-sac", "augmentations": 15, "settings": WIDE}, 1e-4, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ({"latent_codec": "float16"}, 5e-4, True),
                ({"spec": LARGE, "encoder": "canonical"}, 1e-4, False),
                ({"replay": "prioritized"}, 1e-4, True),
                ({"agent": "curl-sac", "latent_codec": "float16"}, 5e-4, True),
                ({"agent": "curl-sac", "replay": "prioritized"}, 1e-4, True),
                ({"agent": "curl-sac", "pipeline": True}, 1e-4, True),
                ({"agent": "curl-sac", "augmentations": 1}, 1e-4, True),
                ({"agent": "curl-sac", "augmentations": 15}, 1e-4, True),  # one row a chunk
            )
        ),
    ],
)
def test_every_codec_encoder_and_sampler_converts(
    build_rig: Callable[..., Rig], given: dict[str, Any], tolerance: float, grows: bool
) -> None:
    run = build_rig(**given)
    run.steps(100)
    encoder, before = run.encoder(), run.held()
    report = run.freeze()
    store = run.session.replay.store
    assert store.capacity == run.plan.latent_capacity
    assert (store.capacity > CAPACITY) == grows
    assert report.rows == len(run.held())
    if not grows:
        assert run.held().tolist() == before[-store.capacity :].tolist()
    assert_rows(run, encoder, tolerance=tolerance)
    run.steps(2 * CAPACITY)
    assert store.rows > report.rows or not grows
    assert_rows(run, encoder, tolerance=tolerance)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("rainbow", "uint8"),
        ("curl-sac", "uint4"),
        pytest.param("rainbow", "uint4", marks=pytest.mark.slow),
        pytest.param("curl-sac", "uint8", marks=pytest.mark.slow),
    ],
)
def test_integer_codecs_are_calibrated_on_the_rows_of_the_replay(
    build_rig: Callable[..., Rig], agent: str, name: str
) -> None:
    run, levels = build_rig(agent, latent_codec=name), {"uint8": 255, "uint4": 15}[name]
    run.steps(100)
    encoder, store = run.encoder(), run.session.replay.store
    whole = [row for row, kept in zip(run.held(), store.stack_is_whole(run.held()), strict=True) if kept]
    shown = [run.env.rows()[row] for row in whole]
    full = [(episode, step) for episode, step in shown if step >= store.stack - 1]
    assert 0 < len(full) < len(shown)
    wanted = quantizers(run.wanted(encoder, full)[:, run.center()], levels)
    run.freeze()
    assert store.capacity == run.plan.latent_capacity > 3 * CAPACITY
    arrays = store.codec.state().arrays
    step, low = (arrays[name].reshape(store.codec.view_shape) for name in ("step", "low"))
    np.testing.assert_allclose(step.ravel(), [grid.step for grid in wanted], rtol=1e-3)
    np.testing.assert_allclose(low.ravel(), [grid.low for grid in wanted], rtol=1e-3, atol=1e-3)
    run.steps(2 * CAPACITY)
    ids = run.held()
    latents = run.wanted(encoder, [run.env.rows()[row] for row in ids])  # [B, O, N, L]
    inside = np.clip(latents, low, low + levels * step)
    differences = np.abs(run.latents(ids)[:, :, None] - inside[:, None]) / step  # [B, K, O, N, L]
    assert differences.max(axis=(3, 4)).min(axis=2).max() <= 0.51
    outside = (latents < low - 0.5 * step) | (latents > low + (levels + 0.5) * step)
    assert store.codec.clip_rate == pytest.approx(outside.mean(), rel=0.5, abs=1e-3)
    assert store.codec.clip_rate > 0


def test_a_refused_freeze_releases_the_memory_of_the_codec(build_rig: Callable[..., Rig]) -> None:
    run = build_rig(latent_codec="uint8")
    run.steps(100)
    before = snapshot(run)
    run.checkpoints.write_text("")
    with pytest.raises(seer_edge.training.freeze.FreezeRefusedError):
        run.freeze()
    assert_same(snapshot(run), before)


@pytest.mark.parametrize("given", [{}, {"agent": "curl-sac", "settings": WIDE}])
def test_the_ring_of_latents_wraps(build_rig: Callable[..., Rig], given: dict[str, Any]) -> None:
    run = build_rig(**given, learning_starts=1_000)
    run.steps(CAPACITY + 5)
    encoder = run.encoder()
    run.freeze()
    run.steps(run.plan.latent_capacity)
    assert run.session.replay.store.rows == run.plan.latent_capacity < run.session.replay.store.appended
    assert_rows(run, encoder)


def test_rows_shifted_by_one_do_not_pass(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    encoder = run.encoder()
    run.freeze()
    assert_rows(run, encoder)
    store = run.session.replay.store
    data = store.storage.data[: store.rows].copy()
    store.storage.data[: store.rows] = np.roll(data, 1, axis=0)
    with pytest.raises(AssertionError):
        assert_rows(run, encoder)
    store.storage.data[: store.rows] = data
    store.storage.data[5] = data[6]
    with pytest.raises(AssertionError):
        assert_rows(run, encoder)
    store.storage.data[5] = data[5]
    assert_rows(run, encoder)
    store.columns.reward[: store.rows] = np.roll(store.columns.reward[: store.rows], -1)
    with pytest.raises(AssertionError):
        assert_rows(run, encoder)


def test_a_latent_of_another_view_does_not_pass(build_rig: Callable[..., Rig]) -> None:
    run = build_rig("curl-sac")
    run.steps(100)
    encoder = run.encoder()
    run.freeze()
    assert_rows(run, encoder)
    store = run.session.replay.store
    latents = store.storage.data[: store.rows].view(np.float32).reshape(store.rows, *store.codec.shape)
    row = int(np.flatnonzero(store.columns.age[: store.rows] >= 2)[0])
    episode, step = run.env.rows()[store.oldest + row]
    stack, wanted = run.stack_of(episode, step), run.wanted(encoder, [(episode, step)])[0]
    frames = np.split(stack, 3)
    each_its_own = np.concatenate([run.view_of(frame, (y, 0)) for y, frame in enumerate(frames)])
    newest_first = run.view_of(np.concatenate(frames[::-1]), (1, 1))
    faults = {
        "of the next row": latents[row + 1, 2],
        "the networks the wrong way round": latents[row, 2, ::-1],
        "each network under a view of its own": np.stack([wanted[0, 0], wanted[1, 1]]),
        "each frame under a view of its own": encode(encoder, each_its_own[None])[0],
        "the newest frame first": encode(encoder, newest_first[None])[0],
    }
    sound = latents[row, 2].copy()
    for fault in faults.values():
        latents[row, 2] = fault
        with pytest.raises(AssertionError):
            assert_rows(run, encoder)
    latents[row, 2] = sound
    assert_rows(run, encoder)


def test_views_are_drawn_uniformly_and_for_each_latent(build_rig: Callable[..., Rig]) -> None:
    """Before and after the freeze, each latent of a row has its own random view."""
    run = build_rig("curl-sac", learning_starts=1_000)
    run.steps(100)
    encoder = run.encoder()
    converted = run.freeze().rows
    run.steps(350)
    views, count = assert_rows(run, encoder), len(run.offsets())
    assert count == 9
    for part in (views[:converted], views[converted:]):
        expected = part.size / count
        chi_squared = ((np.bincount(part.ravel(), minlength=count) - expected) ** 2 / expected).sum()
        assert chi_squared < 26  # 8 degrees of freedom: one in a thousand is above
        repeated = [part[:, 0] == part[:, 1], part[:, 1] == part[:, 2], part[1:, 0] == part[:-1, 0]]
        assert np.concatenate(repeated).mean() < 0.2  # 1 in 9 by chance


def test_priorities_stay_with_their_rows(rig: Callable[..., Rig]) -> None:
    run = rig(replay="prioritized")
    run.steps(130)
    replay = run.session.replay
    assert isinstance(replay.sampler, PrioritizedSampler)
    before = dict(zip(run.held().tolist(), replay.sampler.priorities(run.held()).tolist(), strict=True))
    run.freeze()
    after = replay.sampler.priorities(run.held()).tolist()
    assert after == [before[row] for row in run.held().tolist()]
    assert len(set(after)) > 10


def test_the_freeze_stays_within_the_budget(build_rig: Callable[..., Rig]) -> None:
    for given in (
        {},
        {"spec": LARGE, "encoder": "canonical"},
        {"replay": "prioritized"},
        {"agent": "curl-sac"},
        {"agent": "curl-sac", "replay": "prioritized", "augmentations": 15},
    ):
        run = build_rig(**given)
        session, ledger = run.session, run.session.ledger
        run.steps(100)
        arena = session.replay.store.arena
        address = arena.bytes.ctypes.data
        run.freeze()
        run.steps(10)
        assert session.replay.store.arena is arena
        assert arena.bytes.ctypes.data == address
        assert np.shares_memory(session.replay.store.storage.data, arena.bytes)
        assert ledger.peak_bytes(Line.OBSERVATIONS) == run.plan.arena_bytes <= run.plan.config.mem_budget_bytes
        assert ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes <= WORKSPACE_CAP_BYTES
        assert ledger.held_bytes(Line.COLUMNS) <= run.plan.columns_bytes
        assert ledger.held_bytes(Line.PRIORITIES) <= run.plan.priorities_bytes
