"""SIGTERM, Ctrl-C and a closed terminal in every phase of a run, once and twice."""

import functools
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from seer_edge.runs import checkpoint
from seer_edge.training.session import Session, StepReport
from tests.faults import runs

END_SECONDS = 10
STATUSES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
PHASES = {
    # The function whose call triggers the signal, the number of the call, and the step at which the run stops.
    "before the first step": ("seer_edge.training.run:build_session", 1, 0),
    "collecting": ("seer_edge.training.session:Session.step", 7, 7),
    "learning from pixels": ("seer_edge.agents.rainbow:RainbowAgent.update", 27, 48),
    "in the middle of a checkpoint": ("seer_runtime.durable:write_tensors", 8, 40),
    "preparing the freeze": ("seer_edge.training.freeze:_prepare", 1, 90),
    "converting": ("seer_runtime.replay.convert:Conversion._cut_views", 3, 90),
    "learning from latents": ("seer_edge.agents.rainbow:RainbowAgent.update", 111, 132),
    "evaluating": ("seer_edge.agents.rainbow:RainbowAgent.greedy", 5, 100),
    "evaluating at the end": ("seer_edge.agents.rainbow:RainbowAgent.greedy", 45, 160),
}


@pytest.fixture
def alien(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.undisturbed(tmp_path_factory)


def signal_at(place: str, call: int, number: int, send: Any) -> None:
    def act() -> None:
        send(time.monotonic())
        os.kill(os.getpid(), number)

    runs.at_call(place, call, act)


def check_resume(path: Path, log: Path, alien: Path) -> None:
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))
    assert runs.results(path) == runs.results(alien)


SAMPLE = {("converting", signal.SIGTERM), ("evaluating", signal.SIGINT)}
CASES = [
    pytest.param(phase, number, marks=() if (phase, number) in SAMPLE else pytest.mark.faults)
    for phase, number in itertools.product(PHASES, STATUSES)
]


@pytest.mark.fault(
    "SIGTERM, SIGINT or SIGHUP in every phase: before the first step, collecting, learning, "
    "freeze, conversion, evaluation, checkpoint",
    promise="exit 143, 130 or 129 within 10 s, with a checkpoint of that step; `resume` ends as the "
    "undisturbed run does",
)
@pytest.mark.parametrize(("phase", "number"), CASES)
def test_a_signal_stops_the_run_with_a_checkpoint(
    phase: str, number: signal.Signals, alien: Path, tmp_path: Path
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    place, call, step = PHASES[phase]
    prepare = functools.partial(signal_at, place, call, number)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare)
    assert child.pipe.poll(60), log.read_text()
    sent = child.pipe.recv()
    assert child.join() == STATUSES[number], log.read_text()
    assert time.monotonic() - sent < END_SECONDS
    assert f"stopped at step {step}; wrote " in log.read_text()
    assert "Traceback" not in log.read_text()
    assert checkpoint.newest(path / "checkpoints").timestep == step
    assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
    check_resume(path, log, alien)


def hang_up_twice(send: Any) -> None:
    def act() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)

    place, call, _ = PHASES["collecting"]
    runs.at_call(place, call, act)


@pytest.mark.fault(
    "a closed terminal: SIGHUP from the kernel, and another one from the shell",
    promise="exit 129 with a checkpoint of that step; `resume` ends as the undisturbed run does",
)
def test_a_closed_terminal_may_send_two_signals(alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert runs.start(log, runs.train_command, runs.alien(), path, prepare=hang_up_twice).join() == 129, log.read_text()
    assert checkpoint.newest(path / "checkpoints").timestep == PHASES["collecting"][2]
    check_resume(path, log, alien)


@pytest.mark.fault(
    "SIGTERM while the last checkpoint is written", promise="exit 143; the run is finished and reports it"
)
def test_a_signal_during_the_last_checkpoint(alien: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    saves = 1 + 7 + 1 + 1  # at the start, every 20 steps, before the freeze, at the end
    prepare = functools.partial(signal_at, "seer_edge.runs.checkpoint:save", saves, signal.SIGTERM)
    assert runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare).join() == 143, log.read_text()
    check_resume(path, log, alien)


# --- twice -------------------------------------------------------------------------------------------------


def send_steps(send: Any) -> None:
    step = Session.step

    def step_and_send(session: Session) -> StepReport:
        send(session.timestep)
        return step(session)

    Session.step = step_and_send  # type: ignore[method-assign]


@pytest.mark.faults
@pytest.mark.fault(
    "two SIGTERM, SIGINT or SIGHUP, the second one at a random moment",
    promise="the process ends; the last checkpoint loads; `resume` ends as the undisturbed run does",
)
@pytest.mark.parametrize(
    ("number", "trials"),
    [(signal.SIGINT, 2), *(pytest.param(number, 10, marks=pytest.mark.faults) for number in STATUSES)],
)
def test_a_second_signal_ends_the_process_and_loses_no_checkpoint(
    number: signal.Signals, trials: int, alien: Path, tmp_path: Path, record_property: Any
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    rng = random.Random(number + trials)
    child = runs.start(log, runs.train_command, runs.alien(), path, prepare=send_steps)
    for trial in range(trials):
        assert child.pipe.poll(60), log.read_text()
        time.sleep(rng.uniform(0, 0.3))
        for delay in (0, rng.choice([0, rng.uniform(0, 0.03)])):
            time.sleep(delay)
            os.kill(child.process.pid or 0, number)
        begin = time.monotonic()
        assert child.join() in (STATUSES[number], -number, 0), log.read_text()
        assert time.monotonic() - begin < END_SECONDS
        assert checkpoint.newest(path / "checkpoints").skipped == ()
        prepare = send_steps if trial + 1 < trials else None
        child = runs.start(log, runs.command, "resume", path, prepare=prepare)
        if runs.newest(path).name == "step_0000000160":
            break
    assert child.join() == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))
    assert runs.results(path) == runs.results(alien)
    record_property("trials", trial + 1)
