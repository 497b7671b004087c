"""Failures of the environment in a run: reported in one line, with a checkpoint of the last good step."""

import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seer_edge.envs.games
from seer_edge.config.config import TrainConfig
from seer_edge.runs import checkpoint
from seer_edge.training.session import Session, StepReport
from seer_runtime import durable
from tests.faults import runs
from tests.faults.faulty_env import EVALUATED, FIRST, GAME, HANGS, Fault, plant

TIMEOUT_SECONDS = 1.0
LATE_SECONDS = 6.0
"""Time beyond the timeout in which a hang must end, including the checkpoint, on a busy machine."""
STEPS = 90


def faulty(**changes: Any) -> TrainConfig:
    """Return a run of the faulty game with 90 steps: learning from 20, a freeze at 50, an evaluation at 70."""
    given = {"env": GAME, "env_name": "Faulty-v0", "mem_budget_bytes": 80_000, "total_timesteps": STEPS}
    return runs.alien(**{**given, "freeze_at": 50, "eval_every": 70, "eval_episodes": 2, **changes})


def failed_run(path: Path, fault: Fault, **changes: Any) -> tuple[runs.Child, Path]:
    """Start `seer-edge train` with `fault` injected; return the process and its log."""
    log = path.with_suffix(".failed")
    prepare = functools.partial(plant, fault)
    return runs.start(log, runs.train_command, faulty(**changes), path, prepare=prepare), log


def check_it_stopped(path: Path, log: Path, step: int, reason: str) -> None:
    """Check that the run reported the failure and saved the steps before it."""
    text = log.read_text()
    assert "Traceback" not in text, text
    last = text.splitlines()[-1]
    assert last.startswith("seer-edge"), text
    assert "the environment failed" in last
    assert reason in last
    saved = checkpoint.newest(path / "checkpoints")
    assert (saved.timestep, saved.skipped) == (step, ())
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"]) == ("failed", step)


def check_resume(path: Path, step: int) -> None:
    """Check that `resume`, without the fault, starts a new episode, reports it and finishes."""
    log = path.with_suffix(".resumed")
    assert runs.start(log, runs.command, "resume", path, "--env-timeout", "60s").join() == 0, log.read_text()
    text = log.read_text()
    assert f"resumed at step {step} of {STEPS}" in text
    assert "note: the environment saved no state: a new episode begins" in text
    saved = checkpoint.newest(path / "checkpoints")
    assert saved.timestep == STEPS
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["resumed_at"]) == ("finished", [step])
    assert summary["freeze"]["timestep"] == 50


def survives(path: Path, fault: Fault, step: int, reason: str) -> None:
    child, log = failed_run(path, fault)
    assert child.join() == 75, log.read_text()
    check_it_stopped(path, log, step, reason)
    check_resume(path, step)


PIXEL, LATENT = 33, 61
"""A step before and one after the freeze, both in the middle of an episode."""
REASONS = {
    "NaN frame": "the picture is float32 [42, 42], not uint8 [42, 42] as declared",
    "float frame": "the picture is float64 [42, 42]",
    "16-bit frame": "the picture is uint16 [42, 42]",
    "cut frame": "the picture is uint8 [41, 42]",
    "no frame": "the picture is NoneType None",
    "NaN reward": "the reward is nan",
    "infinite reward": "the reward is -inf",
    "no reward": "the reward is NoneType None",
    "worded reward": "the reward is str '1.0'",
    "no end": "terminated is NoneType None",
    "exception": "RuntimeError: cable pulled (faulty_env.py:",
    "SystemExit": "SystemExit: 0 (faulty_env.py:",
    "MemoryError": "MemoryError: no memory for a frame",
    "OSError": "OSError: [Errno 5] the camera does not answer",
}
SAMPLE = ("NaN frame", "NaN reward", "SystemExit")


def wrong(what: str, at: int) -> Any:
    marks = () if (what, at) in {(SAMPLE[0], PIXEL), (SAMPLE[1], LATENT), (SAMPLE[2], PIXEL)} else pytest.mark.faults
    return pytest.param(what, at, marks=marks, id=f"{what}-{at}")


@pytest.mark.fault(
    "the environment returns an invalid frame, reward or done flag, raises, or exits",
    promise="exit 75 with one line; `resume` continues from a checkpoint of the last good step",
)
@pytest.mark.parametrize(("what", "at"), [wrong(what, at) for what in REASONS for at in (PIXEL, LATENT)])
def test_a_run_survives_a_failing_step(what: str, at: int, tmp_path: Path) -> None:
    survives(tmp_path / "run", Fault(what, at), at - 1, REASONS[what])


# The run resets after its steps 20, 40, 60 and 80. The first episode is truncated, the second terminated.
@pytest.mark.fault(
    "the environment raises in `reset`, before or after the freeze",
    promise="exit 75 with one line; `resume` continues from a checkpoint of the last good step",
)
@pytest.mark.parametrize(
    ("count", "step"),
    [(2, 20), pytest.param(3, 40, marks=pytest.mark.faults), pytest.param(4, 60, marks=pytest.mark.faults)],
)
def test_a_run_survives_a_failing_reset(count: int, step: int, tmp_path: Path) -> None:
    survives(tmp_path / "run", Fault("exception", count, "reset"), step, REASONS["exception"])


@pytest.mark.fault(
    "the environment of an evaluation fails when built, reset or stepped",
    promise="exit 75 with one line; `resume` continues from a checkpoint of the last good step",
)
@pytest.mark.parametrize(
    ("call", "count"),
    [
        ("init", 1),
        *(pytest.param(*call, marks=pytest.mark.faults) for call in [("reset", 2), ("step", 5)]),
    ],
)
def test_a_run_survives_a_failing_evaluation(call: str, count: int, tmp_path: Path) -> None:
    survives(tmp_path / "run", Fault("exception", count, call, EVALUATED), 70, "RuntimeError: cable pulled")


# --- hangs -------------------------------------------------------------------------------------------------


def check_hang_ends_in_time(child: runs.Child, log: Path, status: int) -> None:
    assert child.pipe.poll(60), log.read_text()
    begin = time.monotonic()
    assert child.join(60) == status, log.read_text()
    assert time.monotonic() - begin < TIMEOUT_SECONDS + LATE_SECONDS


STEP = [pytest.param(Fault(how, at), at - 1, marks=pytest.mark.faults) for how in HANGS for at in (PIXEL, LATENT)]
IN_THE_RUN = [
    pytest.param(Fault("loop", LATENT + 1), LATENT),
    *STEP,
    pytest.param(Fault("sleep", 2, "reset"), 20, marks=pytest.mark.faults),
    pytest.param(Fault("loop", 4, "reset"), 60, marks=pytest.mark.faults),
    pytest.param(Fault("sleep", 5, "step", EVALUATED), 70),
    pytest.param(Fault("loop", 2, "reset", EVALUATED), 70, marks=pytest.mark.faults),
    pytest.param(Fault("pipe", 1, "init", EVALUATED), 70, marks=pytest.mark.faults),
]


@pytest.mark.fault(
    "the environment hangs (sleep, loop, silent pipe) in a step, a reset or an evaluation",
    promise="the run ends within `--env-timeout` and some seconds; exit 75 with one line; `resume` "
    "continues from a checkpoint of the last good step",
)
@pytest.mark.parametrize(("fault", "step"), IN_THE_RUN, ids=str)
def test_a_run_survives_a_hang(fault: Fault, step: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    child, log = failed_run(path, fault, env_timeout_seconds=TIMEOUT_SECONDS)
    check_hang_ends_in_time(child, log, 75)
    check_it_stopped(path, log, step, "did not return within 1 seconds")
    assert f"no answer from the environment at step {step}" in log.read_text()
    check_resume(path, step)


@pytest.mark.fault(
    "the environment hangs while it is built or renders its first frame", promise="exit 2; nothing is written"
)
@pytest.mark.parametrize("call", ["reset", pytest.param("init", marks=pytest.mark.faults)])
@pytest.mark.parametrize("how", ["sleep", pytest.param("loop", marks=pytest.mark.faults)])
def test_a_hang_before_the_run_writes_nothing(call: str, how: str, tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "run"
    words = ("train", "--env", GAME, "--mem-budget", "80kB", "--run-dir", path, "--env-timeout", "1s")
    prepare = functools.partial(plant, Fault(how, 1, call, FIRST))
    check_hang_ends_in_time(runs.start(log, runs.command, *words, prepare=prepare), log, 2)
    assert log.read_text().count("\n") == 1
    assert f"seer-edge: --env {GAME}: " in log.read_text()
    assert "did not return within 1 seconds" in log.read_text()
    assert not path.exists()


@pytest.mark.fault(
    "the environment exits while it is built or renders its first frame", promise="exit 2; nothing is written"
)
@pytest.mark.parametrize("call", ["reset", "init"])
def test_an_exit_before_the_run_writes_nothing(call: str, tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "run"
    words = ("train", "--env", GAME, "--mem-budget", "80kB", "--run-dir", path)
    prepare = functools.partial(plant, Fault("SystemExit", 1, call, FIRST))
    assert runs.start(log, runs.command, *words, prepare=prepare).join() == 2, log.read_text()
    assert log.read_text().count("\n") == 1
    assert "SystemExit: 0" in log.read_text()
    assert not path.exists()


@pytest.mark.fault(
    "the environment fails or hangs at the start of the run, after the check before it passed",
    promise="exit 75 with one line; no checkpoint is written",
)
@pytest.mark.parametrize("call", ["reset", pytest.param("init", marks=pytest.mark.faults)])
@pytest.mark.parametrize("what", ["exception", "sleep"])
def test_a_failure_at_the_start_of_the_run(call: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    child, log = failed_run(path, Fault(what, 1, call), env_timeout_seconds=TIMEOUT_SECONDS)
    assert child.join(60) == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    assert ("cable pulled" if what == "exception" else "did not return") in log.read_text().splitlines()[-1]
    assert not list(path.glob("checkpoints/step_*"))


# --- unusual but valid environments ------------------------------------------------------------------------


@pytest.mark.fault("the environment reuses one array for all frames", promise="the run equals one with separate arrays")
def test_a_reused_buffer_does_not_change_the_run(tmp_path: Path) -> None:
    for name, reuses in (("copied", False), ("reused", True)):
        log = tmp_path / f"{name}.log"
        prepare = functools.partial(plant, None, reuses_its_buffer=reuses)
        assert runs.start(log, runs.train_command, faulty(), tmp_path / name, prepare=prepare).join() == 0, (
            log.read_text()
        )
    copied, reused = (tmp_path / name for name in ("copied", "reused"))
    assert runs.fingerprint(runs.newest(reused)) == runs.fingerprint(runs.newest(copied))
    assert runs.results(reused) == runs.results(copied)


def endless(steps_max: int, send: Any) -> None:
    plant(None, send, endless=True)
    seer_edge.envs.games.EPISODE_STEPS_MAX = steps_max


@pytest.mark.fault(
    "the environment's episodes never end", promise="an evaluation cuts each episode off at its step limit"
)
def test_endless_episodes_are_cut_off_in_an_evaluation(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "run"
    child = runs.start(log, runs.train_command, faulty(), path, prepare=functools.partial(endless, 30))
    assert child.join() == 0, log.read_text()
    returns = json.loads((path / "summary.json").read_text())["eval"]["returns"]
    assert len(returns) == 2
    assert all(0 <= total <= 30 for total in returns)


# --- a loss, or weights, that are not finite ---------------------------------------------------------------


def poison(part: str, after: int, value: float, send: Any) -> None:
    """In the child, set one number of the agent to `value` after step `after`."""
    step = Session.step

    def stepping(session: Session) -> StepReport:
        report = step(session)
        if session.timestep == after:
            name = max(name for name in session.agent.state().arrays if name.startswith(part))
            session.agent.state().arrays[name].reshape(-1)[0] = value
        return report

    Session.step = stepping  # type: ignore[method-assign]


@pytest.fixture
def alien(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.undisturbed(tmp_path_factory)


NAN, INF = float("nan"), float("inf")
POISON = [
    ("head.", 33, NAN, "the loss at step 34 is nan"),
    pytest.param("head.", 120, INF, "at step 120 is not finite", marks=pytest.mark.faults),
    pytest.param("encoder.", 89, NAN, "the loss at step 90 is nan", marks=pytest.mark.faults),
    pytest.param("encoder.", 90, INF, "the loss at step 90 is nan", marks=pytest.mark.faults),
    pytest.param("optimizer.first.", 60, NAN, "at step 60 is not finite", marks=pytest.mark.faults),
    pytest.param("target_head.", 113, NAN, "the loss at step 115 is nan", marks=pytest.mark.faults),
]


@pytest.mark.fault(
    "a weight or moment becomes NaN or inf before an update, a checkpoint or the freeze",
    promise="exit 75; no checkpoint contains it; `resume` ends as the undisturbed run does",
)
@pytest.mark.parametrize(("part", "after", "value", "reason"), POISON)
def test_a_run_stops_when_its_numbers_become_invalid(
    part: str, after: int, value: float, reason: str, alien: Path, tmp_path: Path
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    prepare = functools.partial(poison, part, after, value)
    assert runs.start(log, runs.train_command, runs.alien(), path, prepare=prepare).join() == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    assert reason in log.read_text().splitlines()[-1]
    assert runs.newest(path).name == f"step_{(after - 1) // 20 * 20:010d}"
    for saved in path.glob("checkpoints/step_*"):
        for name, array in durable.read_tensors(saved / checkpoint.AGENT).items():
            assert array.dtype.kind != "f" or np.isfinite(array).all(), name
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(path)) == runs.fingerprint(runs.newest(alien))
    assert runs.results(path) == runs.results(alien)
