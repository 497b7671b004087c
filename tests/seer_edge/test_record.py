"""Recording keeps the rows before a failure, and reports the failure in one line."""

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge
from seer_edge.envs import Discrete, EnvSpec
from seer_edge.runs.demos import open_demos
from tests.processes import forked
from tests.runtime import bundles

ENV = f"{__name__}:Counter"
SPEC = EnvSpec(ENV, "Counter", (36, 36), (36, 36), Discrete(3))


class Counter(gymnasium.Env[NDArray[np.uint8], int]):
    """A frame with the number of the step; episodes of 10 steps. Step `fails_at` fails, and `hangs_at` hangs.

    A reset with a seed begins again at step 0: an environment that another test has left open may be used once more.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, fails_at: int = 0, hangs_at: int = 0) -> None:
        self._fails_at, self._hangs_at, self._steps = fails_at, hangs_at, 0

    def reset(self, *, seed: int | None = None, **options: object) -> tuple[NDArray[np.uint8], dict[str, object]]:
        if seed is not None:
            self._steps = 0
        return self._frame(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, object]]:
        self._steps += 1
        if self._steps == self._fails_at:
            raise OSError("the motor is gone")
        if self._steps == self._hangs_at:
            time.sleep(1_000)
        return self._frame(), 1.0, False, self._steps % 10 == 0, {}

    def _frame(self) -> NDArray[np.uint8]:
        return np.full((36, 36), self._steps, np.uint8)


class CounterWithTwoActions(Counter):
    action_space = gymnasium.spaces.Discrete(2)


class Driver:
    """A policy that raises `error` at call `at`."""

    def __init__(self, at: int, error: BaseException) -> None:
        self._at, self._error, self._calls = at, error, 0

    def __call__(self, frame: NDArray[np.uint8]) -> int:
        self._calls += 1
        if self._calls == self._at:
            raise self._error
        return 1


def _kept(path: Path) -> list[int]:
    """Return the numbers on the recorded frames; the last episode is cut."""
    with open_demos(path, SPEC, None) as demos:
        rows = list(demos)
    assert rows[-2].truncated
    assert rows[-1].final
    return [int(row.frame.max()) for row in rows]


def test_a_recording_keeps_the_rows_before_the_environment_fails(tmp_path: Path) -> None:
    with pytest.raises(seer_edge.EnvironmentFailedError, match="the motor is gone"):
        seer_edge.record(ENV, tmp_path / "demos.seer", episodes=9, env_kwargs={"fails_at": 14})
    assert _kept(tmp_path / "demos.seer") == [*range(11), *range(10, 14)]
    assert [file.name for file in tmp_path.iterdir()] == ["demos.seer"]


@pytest.mark.parametrize("error", [KeyError("gamepad"), SystemExit("no gamepad")])
@pytest.mark.parametrize(("at", "kept"), [(1, None), (14, [*range(11), *range(10, 14)])])
def test_a_policy_that_fails_is_reported_in_one_line(
    error: BaseException, at: int, kept: list[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "drive", Driver(at, error), raising=False)
    policy = f"{__name__}:drive"
    with pytest.raises(seer_edge.BadInputError) as raised:
        seer_edge.record(ENV, tmp_path / "demos.seer", policy=policy, episodes=9)
    line = str(raised.value)
    assert line.startswith(f"--policy {policy}: failed: {type(error).__name__}: {error} (test_record.py:")
    assert line.endswith("; correct the function")
    if kept is None:
        assert not list(tmp_path.iterdir())
    else:
        assert _kept(tmp_path / "demos.seer") == kept


def test_a_recording_keeps_the_rows_before_an_interrupt_of_a_policy_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "drive", Driver(14, KeyboardInterrupt()), raising=False)
    with pytest.raises(KeyboardInterrupt):
        seer_edge.record(ENV, tmp_path / "demos.seer", policy=f"{__name__}:drive", episodes=9)
    assert _kept(tmp_path / "demos.seer") == [*range(11), *range(10, 14)]


@pytest.mark.parametrize("policy", [":drive", ".drive:drive", f"{__name__}:ENV"])
def test_a_policy_that_is_not_a_function_is_reported_in_one_line(policy: str, tmp_path: Path) -> None:
    with pytest.raises(seer_edge.BadInputError, match=r"^--policy .*; give module:function$"):
        seer_edge.record(ENV, tmp_path / "demos.seer", policy=policy, episodes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "reason"),
    [("def (", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division by zero"), ("exit('no')", "SystemExit: no")],
)
def test_a_policy_whose_module_fails_is_reported_in_one_line(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_policy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(seer_edge.BadInputError) as raised:
        seer_edge.record(ENV, tmp_path / "demos.seer", policy="failing_policy:act", episodes=1)
    line = str(raised.value)
    assert line.startswith(f"--policy failing_policy:act: {reason}")
    assert "\n" not in line
    assert line.endswith("; give module:function")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hz": 0}, "--hz 0: give a rate from 0.001 to 1000"),
        ({"hz": -1}, "--hz -1: give a rate from 0.001 to 1000"),
        (
            {"hz": 0.5, "env_timeout": 1},
            "--env-timeout 1s: a step waits for a control period of 2 s; give a longer time",
        ),
        ({"env_timeout": 0}, "--env-timeout 0s: give a time above 0s and up to a year"),
    ],
)
def test_times_that_cannot_be_used_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(seer_edge.BadInputError) as raised:
        seer_edge.record(ENV, tmp_path / "demos.seer", **options)
    assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rows", "limit_bytes"), [(11, 14_300), (110, 70_000)])
def test_a_full_disk_is_reported_in_one_line(rows: int, limit_bytes: int, tmp_path: Path) -> None:
    """The frames of 11 rows fit and their file does not. Those of 110 rows do not fit."""
    path, before = tmp_path / "demos.seer", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(seer_edge.BadInputError) as raised:
            seer_edge.record(ENV, path, episodes=rows // 11)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(raised.value) == f"-o {path}: cannot be written (File too large); name another file"
    assert not list(tmp_path.iterdir())


def test_a_recording_replaces_no_file_and_is_not_put_into_a_run(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(seer_edge.BadInputError, match=f"^-o {path}: is there already; name another file"):
        seer_edge.record(ENV, path, episodes=1)
    assert path.read_text() == "mine"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "checkpoints").mkdir()
    with pytest.raises(seer_edge.BadInputError, match=f"{run} is a run's folder"):
        seer_edge.record(ENV, run / "checkpoints" / "demos.seer", episodes=1)
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.integration
@pytest.mark.parametrize(("at", "rows"), [(1, 0), (14, 15)])
def test_a_recording_keeps_the_rows_before_the_environment_hangs(at: int, rows: int, tmp_path: Path) -> None:
    path, kwargs = tmp_path / "demos.seer", json.dumps({"hangs_at": at})
    done = forked("record", "--env", ENV, "--env-kwargs", kwargs, "--env-timeout", "1s", "--episodes", 9, "-o", path)
    assert done.returncode == 75
    lines = [f"{path}: holds the {rows} rows before the failure"] if rows else []
    lines.append("step did not return within 1 seconds")
    assert all(line in found for line, found in zip(lines, done.stderr.splitlines(), strict=True)), done.stderr
    assert [file.name for file in tmp_path.iterdir()] == (["demos.seer"] if rows else [])
    if rows:
        assert _kept(path) == [*range(11), *range(10, 14)]


@pytest.mark.parametrize(
    ("env", "frame_shape", "message"),
    [
        (ENV, (42, 42), "sees frames of 42x42, not of 36x36; give the --resolution and --color of its run"),
        (f"{ENV}WithTwoActions", (36, 36), f"has other actions than {ENV}WithTwoActions; give another"),
    ],
)
def test_a_bundle_that_does_not_fit_says_what_differs(
    env: str, frame_shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = bundles.write(tmp_path / "policy.seer", dataclasses.replace(bundles.SPEC, frame_shape=frame_shape))
    with pytest.raises(seer_edge.BadInputError) as refusal:
        seer_edge.record(env, tmp_path / "a.demos", policy=str(path))
    assert str(refusal.value) == f"--policy {path}: {message}"
