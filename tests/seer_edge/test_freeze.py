"""The freeze of a real session. Every kept row is compared with the encoder's output on the environment's own log."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge.training.evaluate
import seer_edge.training.freeze
import seer_edge.training.session
from seer_edge.runs import checkpoint
from seer_runtime import durable
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.replay.replay import Observations
from seer_runtime.replay.samplers import PrioritizedSampler
from seer_runtime.replay.windows import n_step_windows
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from tests.runtime.naive_replay import quantizers
from tests.seer_edge.freeze_rig import CAPACITY, KINDS, LARGE, Rig, assert_rows, assert_same, clipped, encode, snapshot

pytestmark = pytest.mark.integration

WIDE = dataclasses.replace(KINDS["curl-sac"]["settings"], features=20)


# --- what the freeze makes of the rows ---------------------------------------------------------------------


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
    data = store.data[: store.rows].copy()
    store.data[: store.rows] = np.roll(data, 1, axis=0)
    with pytest.raises(AssertionError):
        assert_rows(run, encoder)
    store.data[: store.rows] = data
    store.data[5] = data[6]
    with pytest.raises(AssertionError):
        assert_rows(run, encoder)
    store.data[5] = data[5]
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
    latents = store.data[: store.rows].view(np.float32).reshape(store.rows, *store.codec.shape)
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
        assert np.shares_memory(session.replay.store.data, arena.bytes)
        assert ledger.peak_bytes(Line.OBSERVATIONS) == run.plan.arena_bytes <= run.plan.config.mem_budget_bytes
        assert ledger.peak_bytes(Line.WORKSPACE) <= run.plan.workspace_bytes <= WORKSPACE_CAP_BYTES
        assert ledger.held_bytes(Line.COLUMNS) <= run.plan.columns_bytes
        assert ledger.held_bytes(Line.PRIORITIES) <= run.plan.priorities_bytes


# --- the run goes on ---------------------------------------------------------------------------------------


def test_the_running_episode_continues_on_latents(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.until_mid_episode(100)
    session, store = run.session, run.session.replay.store
    encoder, episode = run.encoder(), run.env.log[-1]
    newest, step = store.appended - 1, len(episode.actions)
    before = n_step_windows(store, np.array([newest]), 3, 0.9)
    assert not before.valid[0]
    run.freeze()
    assert session.phase == "latent"
    np.testing.assert_allclose(session.observed.input, run.acted_on(encoder, episode, step), atol=1e-4)
    run.steps(4)
    assert run.env.log[-1] is episode
    ids = np.arange(newest - 1, newest + 3)
    assert store.columns.age[store.slots(ids)].tolist() == [step - 2, step - 1, step, step + 1]
    assert_rows(run, encoder)
    windows = n_step_windows(store, np.array([newest]), 3, 0.9)
    rewards = np.array(clipped(run, episode.rewards[step - 1 : step + 2]))
    assert windows.valid[0]
    assert windows.bootstrap_ids[0] == newest + 3
    assert windows.returns[0] == pytest.approx(rewards @ [1, 0.9, 0.81], rel=1e-5)


def test_actions_are_chosen_from_the_center_crop(rig: Callable[..., Rig]) -> None:
    """At the freeze, after it, and at the start of an episode."""
    run = rig()
    run.steps(100)
    encoder, begun, acted = run.encoder(), 0, []
    run.freeze()
    act = run.session.agent.explore
    run.session.agent.explore = lambda observation, timestep: (
        acted.append(observation.copy()) or act(observation, timestep)
    )
    for _ in range(25):
        episode, step = run.env.log[-1], len(run.env.log[-1].actions)
        begun += step == 0
        run.steps(1)
        np.testing.assert_allclose(acted.pop(), run.acted_on(encoder, episode, step), atol=1e-4)
        assert not acted
    assert begun > 1


def test_batches_after_the_freeze_are_latents_of_the_log(rig: Callable[..., Rig]) -> None:
    """Both ends of a transition use the latent of the same view index."""
    run = rig()
    run.until_mid_episode(120)
    encoder, frozen_at = run.encoder(), run.session.replay.store.appended
    run.freeze()
    run.steps(20)
    assert_rows(run, encoder)
    rows, crossing, drawn = run.env.rows(), 0, set()
    for _ in range(30):
        batch = run.session.replay.sample()
        windows = n_step_windows(run.session.replay.store, batch.row_ids, 3, 0.99)
        observations, next_observations = _whole(batch.observations), _whole(batch.next_observations)
        stored, next_stored = run.latents(batch.row_ids), run.latents(windows.bootstrap_ids)
        for index, row in enumerate(batch.row_ids.tolist()):
            bootstrap = int(windows.bootstrap_ids[index])
            assert rows[row][0] is rows[bootstrap][0]
            crossing += row < frozen_at <= bootstrap
            matches = (stored[index] == observations[index]).all(axis=(1, 2))
            next_matches = (next_stored[index] == next_observations[index]).all(axis=(1, 2))
            assert (matches & next_matches).any()
            if matches.sum() == 1:  # a view may have been drawn twice for a row
                drawn.add(int(matches.argmax()))
    assert crossing > 0
    assert drawn == set(range(run.plan.config.augmentations))


def _whole(observations: Observations) -> NDArray[Any]:
    return np.concatenate([piece.copy() for piece in observations.slices()])


def test_the_encoder_is_fixed_and_the_head_learns(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(110)
    agent = run.session.agent
    first = {name: array.copy() for name, array in agent.state().arrays.items()}
    updates = agent.updates
    run.freeze()
    run.steps(20)
    after = agent.state().arrays
    assert agent.updates == updates + 20
    learned = {name for name, array in after.items() if not np.array_equal(array, first[name])}
    heads = ("head.", "actor.policy.", "critic.qs.", "target_critic.qs.", "log_temperature")
    assert {name for name in after if name.startswith(heads)} <= learned
    assert not {name for name in learned if name.startswith(("encoder.", "critic.norm.", "actor.norm."))}
    assert {"encoder.convs.0.weight", "encoder.convs.1.bias"} <= after.keys()
    online = dict(agent.encoder.named_parameters())
    assert all(parameter is online[name] for name, parameter in agent.target_encoder.named_parameters())


@pytest.mark.parametrize("frozen", [False, True])
def test_an_evaluation_does_not_change_the_session(rig: Callable[..., Rig], frozen: bool) -> None:
    """A run that evaluates and one that does not stay bit-identical, though evaluation shares encoder and ledger."""
    run, twin = rig(), rig()
    for each in (run, twin):
        each.until("", 100)
        if frozen:
            each.freeze()
            each.until("", 105)
    held = run.session.ledger.held_bytes(Line.WORKSPACE)
    played: list[int] = []
    evaluation = seer_edge.training.evaluate.evaluate_session(run.plan, run.session, lambda: False, played.append)
    assert evaluation is not None
    assert len(evaluation.returns) == 3
    assert played == [1, 2, 3]
    assert run.session.ledger.held_bytes(Line.WORKSPACE) == held
    np.testing.assert_array_equal(run.session.observed.input, twin.session.observed.input)
    np.testing.assert_array_equal(run.session.observed.row, twin.session.observed.row)
    for each in (run, twin):
        each.steps(10)
    assert_same(snapshot(run), snapshot(twin))


# --- what it leaves behind ---------------------------------------------------------------------------------


def test_the_written_graph_is_the_one_in_use(rig: Callable[..., Rig]) -> None:
    runs = [rig(), rig()]
    for run in runs:
        run.steps(100)
        run.freeze()
        assert run.path.read_bytes() == run.session.graph
    assert runs[0].path.read_bytes() == runs[1].path.read_bytes()
    run = runs[0]
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["checkpoints", "encoder.onnx"]
    encoder = OnnxEncoder(run.path.read_bytes(), threads=1, ledger=run.session.ledger)
    row = run.held()[-1:]
    stack = run.stack_of(*run.env.rows()[int(row[0])])
    views = np.stack([run.view_of(stack, offset) for offset in run.offsets()])
    latents = np.concatenate([encoder(view[None]).copy() for view in views])
    differences = np.abs(latents[None] - run.latents(row)[0, :, None]).max(axis=(2, 3))
    assert differences.min(axis=1).max() < 1e-6


def test_the_checkpoint_before_the_conversion_holds_frames(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    before, store = snapshot(run), run.session.replay.store
    frames = store.data[: store.rows].copy()
    run.freeze()
    saved = checkpoint.newest(run.checkpoints)
    assert (saved.timestep, saved.frozen, saved.graph) == (100, False, None)
    arrays = dict(saved.agent().arrays)
    assert_same(arrays, {name: array for name, array in before.items() if name in arrays})
    assert any(name.startswith("optimizer.") and ".first.encoder." in name for name in arrays)
    generation = durable.newest_checkpoint(run.checkpoints)
    np.testing.assert_array_equal(durable.read_tensors(generation.path / checkpoint.REPLAY)["rows"], frames)


def test_the_report_has_the_fields_of_the_summary(rig: Callable[..., Rig]) -> None:
    run = rig()
    run.steps(100)
    report = run.freeze()
    assert (report.timestep, report.rows) == (100, run.session.replay.store.rows)
    assert 0 <= report.onnx_max_abs_error < 1e-4
    assert report.seconds > 0
    assert 0 < report.rss_before_bytes <= report.rss_peak_bytes
    assert 0 < report.rss_after_bytes <= report.rss_peak_bytes
    assert 0 < report.anon_peak_bytes <= report.rss_peak_bytes
    assert set(report.to_json()) == {
        *("timestep", "rows", "seconds", "rss_before_bytes", "rss_peak_bytes", "rss_after_bytes"),
        *("onnx_max_abs_error", "codec_errors", "anon_peak_bytes"),
    }
    assert report.codec_errors is None
