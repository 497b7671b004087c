"""A lost life ends the return and not the frame stack: in acting, in batches of frames and in latents.

Held against the log that the environment of the rig keeps of the frames that it showed.
"""

from collections.abc import Callable

import numpy as np
import pytest

from seer_edge.runs import checkpoint
from seer_edge.training.session import resume_session
from seer_runtime.replay.windows import n_step_windows
from tests.seer_edge.freeze_rig import Rig, assert_rows

pytestmark = pytest.mark.integration


def _after(run: Rig, end: str, at_least: int) -> None:
    """Step on until an episode has just begun after one that ended as `end` says, and was long enough to show."""
    run.until(end, at_least)
    while len(run.env.log[-2].actions) < 3:
        run.until(end, 0)


@pytest.mark.parametrize("end", ["life", "terminated", "truncated"])
def test_acting_sees_frames_from_before_a_lost_life_alone(rig: Callable[..., Rig], end: str) -> None:
    run = rig(lives=True, learning_starts=1_000)
    encoder = None
    for frozen in (False, True):
        if frozen:
            encoder = run.encoder()
            run.freeze()
        _after(run, end, 40)
        episode = run.env.log[-1]
        stacked = run.session.perception.stack.frames
        np.testing.assert_array_equal(stacked.reshape(run.stack_of(episode, 0).shape), run.stack_of(episode, 0))
        assert stacked[:-1].any() == (end == "life")
        if encoder is not None:
            np.testing.assert_allclose(run.session.observed.input, run.acted_on(encoder, episode, 0), atol=1e-4)


@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_batches_of_frames_have_them_too_and_returns_do_not(rig: Callable[..., Rig], replay: str) -> None:
    run = rig(lives=True, replay=replay, learning_starts=140)
    run.steps(150)  # the ring holds 60 rows
    rows, reaching = run.env.rows(), 0
    for _ in range(60):
        batch = run.session.replay.sample()
        windows = n_step_windows(run.session.replay.store, batch.row_ids, 3, 0.99)
        pieces = [piece.copy() for piece in batch.observations.slices()]
        for row, got, (y, x), bootstrap in zip(
            batch.row_ids.tolist(),
            np.concatenate(pieces),
            batch.observations.views.tolist(),
            windows.bootstrap_ids.tolist(),
            strict=True,
        ):
            episode, step = rows[row]
            np.testing.assert_array_equal(got, run.view_of(run.stack_of(episode, step), (y, x)))
            assert rows[bootstrap][0] is episode
            reaching += episode.earlier is not None and step < run.plan.config.settings.stack - 1
    assert reaching > 5


def test_latents_are_of_those_stacks_before_the_freeze_and_after_it(rig: Callable[..., Rig]) -> None:
    run = rig(lives=True, learning_starts=140)
    run.steps(150)
    encoder = run.encoder()
    run.freeze()
    assert_rows(run, encoder)
    run.steps(60)
    assert_rows(run, encoder)
    rows = [run.env.rows()[row] for row in run.held()]
    assert sum(episode.earlier is not None and step == 0 for episode, step in rows) > 3


def test_a_run_saved_at_a_lost_life_resumes_in_a_new_scene(rig: Callable[..., Rig]) -> None:
    """The rig's environment has no state, so that the run resumes in a new scene: nothing is carried into it."""
    run = rig(lives=True)
    _after(run, "life", 60)
    run.save()
    session, notes = resume_session(run.plan, checkpoint.newest(run.checkpoints))
    assert any("a new episode begins" in note for note in notes)
    assert not session.perception.stack.frames[:-1].any()
    session.step()
    store = session.replay.store
    assert store.columns.age[store.slot(store.appended - 1)] == 0
