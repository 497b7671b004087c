"""A real session after its freeze: its next steps, and the files and report of the freeze."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge.training.evaluate
import seer_edge.training.freeze
import seer_edge.training.session
from seer_edge.runs import checkpoint
from seer_edge.runs.run_folder import RunFolder
from seer_edge.training.metrics import Console
from seer_edge.training.run import Run
from seer_runtime import durable
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.replay.convert import CHUNK_STACKS
from seer_runtime.replay.replay import Observations
from seer_runtime.replay.windows import n_step_windows
from seer_runtime.system.ledger import Line
from tests.seer_edge.freeze_rig import Rig, assert_rows, assert_same, clipped, snapshot

pytestmark = pytest.mark.integration


# --- the run continues ---------------------------------------------------------------------------------------


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
    encoder, starts, acted = run.encoder(), 0, []
    run.freeze()
    act = run.session.agent.explore
    run.session.agent.explore = lambda observation, timestep: (
        acted.append(observation.copy()) or act(observation, timestep)
    )
    for _ in range(25):
        episode, step = run.env.log[-1], len(run.env.log[-1].actions)
        starts += step == 0
        run.steps(1)
        np.testing.assert_allclose(acted.pop(), run.acted_on(encoder, episode, step), atol=1e-4)
        assert not acted
    assert starts > 1


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


# --- files and report ----------------------------------------------------------------------------------


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
    frames = store.storage.data[: store.rows].copy()
    run.freeze()
    saved = checkpoint.newest(run.checkpoints)
    assert (saved.timestep, saved.frozen, saved.graph) == (100, False, None)
    arrays = dict(saved.agent().arrays)
    assert_same(arrays, {name: array for name, array in before.items() if name in arrays})
    assert any(name.startswith("optimizer.") and ".first.encoder." in name for name in arrays)
    saved = durable.newest_checkpoint(run.checkpoints)
    np.testing.assert_array_equal(durable.read_tensors(saved.path / checkpoint.REPLAY)["rows"], frames)


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


def test_the_service_manager_hears_of_the_run_during_the_conversion(build_rig: Callable[..., Rig]) -> None:
    """A conversion on a board may take longer than its watchdog allows. A restarted run would convert again."""
    rig = build_rig()
    rig.steps(rig.plan.config.freeze_at or 0)
    run, asked = Run(RunFolder(rig.path.parent), rig.session, Console(1_000), None), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return False

    run._do_due_work(stop)
    assert rig.session.phase == "latent"
    assert asked >= rig.session.replay.store.rows / CHUNK_STACKS
