"""`--freeze-at auto`: each comparison against a slow one, the rule of flatness, and the run, which must not change."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import seer_edge
from seer_edge.agents.agent import Agent
from seer_edge.api.forks import Beginning, config_of_fork
from seer_edge.config.freeze_step import given_freeze
from seer_edge.config.request import ForkRequest
from seer_edge.runs import checkpoint
from seer_edge.training.freeze_watch import PROBE_ROWS, Comparison, FreezeWatch
from seer_runtime.system.state import State, StateError
from tests.seer_edge.configs import atari_config
from tests.seer_edge.freeze_rig import KINDS, Rig, assert_same, build_rig, encode, snapshot

__all__ = ["build_rig"]

WINDOW = 20
Build = Callable[..., Rig]


def _naive_cka(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Compute linear CKA by its definition: the Frobenius norms of the cross-covariance and of both covariances."""
    x, y = (matrix.astype(np.float64) - matrix.astype(np.float64).mean(axis=0) for matrix in (first, second))
    norms = [sum(float(value) ** 2 for value in (a.T @ b).ravel()) for a, b in ((x, y), (x, x), (y, y))]
    return norms[0] / float(np.sqrt(norms[1] * norms[2]))


def _seen_by(run: Rig, agent: Agent) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return latents and outputs of `agent` for every probed row, from the frames that the environment showed."""
    store = run.session.replay.store
    rows = [run.env.rows()[row] for row in run.held() if store.stack_is_whole(np.array([row]))[0]]
    views = np.stack([run.view_of(run.stack_of(*row), run.offsets()[run.center()]) for row in rows])
    latents = encode(agent.encoder, views)
    with torch.no_grad():
        outputs = agent.outputs(torch.from_numpy(latents)).numpy()
    return latents.reshape(len(rows), -1), outputs


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_equals_one_with_a_copy_of_the_earlier_agent(kind: str, build_rig: Build) -> None:
    run = build_rig(kind, learning_starts=10, freeze_window=WINDOW)
    earlier: Agent | None = None
    for _ in range(5):
        run.steps(WINDOW - run.session.timestep % WINDOW)
        found = run.session.watch_freeze()
        if earlier is not None:
            assert run.session.replay.store.rows < PROBE_ROWS
            (before, outputs_before), (now, outputs) = _seen_by(run, earlier), _seen_by(run, run.session.agent)
            assert found is not None
            assert found.step == run.session.timestep
            assert found.similarity == pytest.approx(_naive_cka(before, now), abs=1e-6)
            assert found.drift == pytest.approx(1 - _naive_cka(outputs_before, outputs), abs=1e-5)
        if run.session.watch is not None and run.session.watch.reference is not None:
            earlier = copy.deepcopy(run.session.agent)
    assert earlier is not None
    assert found is not None
    assert found.similarity < 1 - 1e-6  # the encoder has changed, so the test compares something


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_watching_changes_nothing_in_the_run(kind: str, build_rig: Build) -> None:
    watched, other = build_rig(kind, learning_starts=10, freeze_window=WINDOW), build_rig(kind, learning_starts=10)
    for _ in range(90):
        watched.steps(1)
        watched.session.watch_freeze()
        other.steps(1)
    assert watched.session.watch is not None
    assert len(watched.session.watch.history) >= 2
    watched.session.watch = None
    assert_same(snapshot(watched), snapshot(other))


@pytest.mark.integration
def test_a_resumed_session_continues_the_comparisons(build_rig: Build) -> None:
    whole = build_rig("rainbow", learning_starts=10, freeze_window=WINDOW)
    parts = build_rig("rainbow", learning_starts=10, freeze_window=WINDOW)
    for run, stops in ((whole, ()), (parts, (WINDOW, 2 * WINDOW + 7))):
        while run.session.timestep < 5 * WINDOW:
            run.steps(1)
            run.session.watch_freeze()
            if run.session.timestep in stops:
                saved = checkpoint.newest(run.save().parent)
                watch, again = run.session.watch, FreezeWatch(WINDOW, [])
                state = saved.watch()
                assert watch is not None
                assert state is not None
                again.restore(state, run.session.agent)
                assert again.history == watch.history
                run.session.watch = again
                assert run.session.watch_freeze() == again.latest(run.session.timestep)  # it is not compared twice
    assert whole.session.watch is not None
    assert parts.session.watch is not None
    assert whole.session.watch.history == parts.session.watch.history
    assert len(whole.session.watch.history) >= 3


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_freeze_ends_the_comparisons(kind: str, build_rig: Build) -> None:
    run = build_rig(kind, learning_starts=10, freeze_window=WINDOW)
    while run.session.watch_freeze() is None:
        run.steps(1)
    run.freeze()
    assert run.session.watch is None
    assert run.session.watch_freeze() is None
    assert run.session.snapshot().watch is None


def _watch(similarities: list[float], drifts: list[float]) -> FreezeWatch:
    values = zip(similarities, drifts, strict=True)
    return FreezeWatch(10, [Comparison(10 * step, *pair) for step, pair in enumerate(values)])


def test_settled_means_that_both_were_flat_for_three_windows() -> None:
    assert _watch([0.5, 0.90, 0.919, 0.91], [0.9, 0.30, 0.29, 0.309]).is_settled
    assert not _watch([0.90, 0.92], [0.30, 0.30]).is_settled
    assert not _watch([0.90, 0.923, 0.91], [0.30, 0.30, 0.30]).is_settled
    assert not _watch([0.90, 0.90, 0.90], [0.30, 0.30, 0.33]).is_settled
    assert not _watch([], []).is_settled


def test_comparisons_are_due_at_windows_after_learning_has_started() -> None:
    watch = FreezeWatch(10, [])
    assert [step for step in range(60) if watch.is_due(step, 20)] == [30, 40, 50]
    watch.reference_step = 40
    assert [step for step in range(60) if watch.is_due(step, 20)] == [50]


@pytest.mark.parametrize(
    ("total", "latest", "window"), [(500_000, 250_000, 10_000), (100_000, 50_000, 5_000), (30, 15, 1), (1, 1, 1)]
)
def test_windows_and_the_latest_step_follow_from_the_length(total: int, latest: int, window: int) -> None:
    fields = given_freeze("auto", total)
    assert (fields["freeze_at"], fields["freeze_window"]) == (latest, window)


@pytest.mark.integration
@pytest.mark.parametrize(
    "damage",
    [
        lambda values, arrays: (values | {"step": "x"}, arrays),
        lambda values, arrays: (values | {"history": [[1, 2]]}, arrays),
        lambda values, arrays: ({}, arrays),
        lambda values, arrays: (values, dict(list(arrays.items())[1:])),
        lambda values, arrays: (values, {name: array[:0] for name, array in arrays.items()}),
    ],
)
def test_a_damaged_record_is_refused(damage: Callable[..., Any], build_rig: Build) -> None:
    run = build_rig("rainbow", learning_starts=10, freeze_window=WINDOW)
    while run.session.watch_freeze() is None:
        run.steps(1)
    assert run.session.watch is not None
    state = run.session.watch.state()
    with pytest.raises(StateError, match="--freeze-at auto"):
        FreezeWatch(WINDOW, []).restore(State(*damage(dict(state.values), dict(state.arrays))), run.session.agent)


@pytest.mark.integration
def test_a_fork_names_the_step_at_which_the_parent_froze_and_not_the_latest_one() -> None:
    config = seer_edge.plan("Alien", mem_budget="1MB", total_timesteps=1000, freeze_at="auto").config
    assert config.freeze_at == 500
    with pytest.raises(seer_edge.BadInputError) as refused:
        config_of_fork(Beginning("RUN", config, 1000, 450), ForkRequest.of(freeze_at=600))
    line = "--freeze-at 600: RUN is frozen already, since step 450; leave it out, or give --at with a step up to 450"
    assert str(refused.value) == line


@pytest.mark.integration
@pytest.mark.parametrize("learning_rate", [1e-2, 1e-12])
def test_a_run_warns_if_it_freezes_at_the_latest_step_though_nothing_was_flat(
    learning_rate: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"batch_size": 8, "learning_starts": 20, "hidden": 16, "n_step": 3, "learning_rate": learning_rate}
    options: dict[str, Any] = {"mem_budget": "500KB", "total_timesteps": 80, "eval_every": "never", "set": settings}
    seer_edge.train("Alien", freeze_at="auto", run_dir=tmp_path / "run", **options)
    with (tmp_path / "run" / "progress.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seer/similarity"]]
    values = [(float(row["seer/similarity"]), float(row["seer/drift"])) for row in rows]
    flat = [end for end in range(3, len(values) + 1) if (np.ptp(values[end - 3 : end], axis=0) <= 0.02).all()]
    assert (len(flat) > 0) == (learning_rate < 1e-9)
    frozen = json.loads((tmp_path / "run" / "summary.json").read_text())["freeze"]["timestep"]
    assert frozen == (int(rows[flat[0] - 1]["time/total_timesteps"]) if flat else 40)
    assert ("similarity or drift was not flat by step 40" in caplog.text) == (not flat)


@pytest.mark.parametrize(
    ("frozen_at", "reason"),
    [
        (None, "freezes at step 500 at the latest, and the fork begins at step 600; give that or a later step"),
        (300, "RUN is frozen already, since step 300"),
    ],
)
def test_a_fork_that_cannot_freeze_at_auto_names_auto(frozen_at: int | None, reason: str) -> None:
    config = atari_config(total_timesteps=1_000, freeze_at=frozen_at or "never")
    with pytest.raises(seer_edge.BadInputError, match=f"^--freeze-at auto: {reason}"):
        config_of_fork(Beginning("RUN", config, 600, frozen_at), ForkRequest.of(freeze_at="auto"))


@pytest.mark.parametrize(("frozen_at", "also"), [(None, ", or another --freeze-at"), (450, "")])
def test_a_fork_that_ends_before_the_latest_freeze_of_auto_says_so(frozen_at: int | None, also: str) -> None:
    config = atari_config(total_timesteps=1_000, freeze_at="auto")
    line = f"^--total-timesteps 480: the freeze is at step 500 at the latest; give that or more{also}$"
    with pytest.raises(seer_edge.BadInputError, match=line):
        config_of_fork(Beginning("RUN", config, 460, frozen_at), ForkRequest.of(total_timesteps=480))
