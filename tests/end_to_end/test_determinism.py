"""Golden runs: the same seed twice gives the same bits at one thread."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from seer_runtime import durable
from tests.end_to_end.conftest import Finished

COMPARED = ("agent.safetensors", "replay.safetensors", "state.json")


@pytest.mark.parametrize("replay", [pytest.param("uniform", marks=pytest.mark.slow), "prioritized"])
def test_the_same_seed_twice_gives_the_same_bits(short_run: Callable[..., Finished], replay: str) -> None:
    options = {"total_timesteps": 180, "freeze_at": 130, "replay": replay, "eval_every": 160, "eval_episodes": 2}
    options["settings"] = {"learning_starts": 60}
    first, second, other = short_run(**options), short_run(**options), short_run(**options, seed=1)
    for step in (130, 180):
        for name in COMPARED:
            assert (first.checkpoint(step) / name).read_bytes() == (second.checkpoint(step) / name).read_bytes()
    assert first.folder.encoder.read_bytes() == second.folder.encoder.read_bytes()
    assert first.summary["eval"] == second.summary["eval"]
    assert first.folder.encoder.read_bytes() != other.folder.encoder.read_bytes()


def test_evaluation_does_not_disturb_training(short_run: Callable[..., Finished]) -> None:
    often, seldom = (
        short_run(
            **{"total_timesteps": 160, "freeze_at": 120, "eval_every": every, "eval_episodes": 2},
            settings={"learning_starts": 60},
        )
        for every in (40, 160)
    )
    ours, theirs = (durable.read_tensors(run.checkpoint(160) / "agent.safetensors") for run in (often, seldom))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_tensorboard_events_are_written_on_request(short_run: Callable[..., Finished]) -> None:
    with_events = short_run(total_timesteps=80, freeze_at=60, tensorboard=True, eval_episodes=1)
    without = short_run(total_timesteps=80, freeze_at=60, eval_episodes=1)
    (events,) = with_events.folder.tensorboard.iterdir()
    assert b"rollout/ep_rew_mean" in events.read_bytes()
    assert not without.folder.tensorboard.exists()


def test_a_stop_during_an_evaluation_writes_the_steps_row_once(
    short_run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*unused: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("seer_edge.training.run.evaluate_session", interrupted)
    run = short_run(total_timesteps=400, freeze_at=300, eval_every=130, log_every=100)
    rows = run.folder.progress.read_text().splitlines()[1:]
    assert run.status == 143
    assert [row.split(",")[0] for row in rows] == ["100", "130"]
