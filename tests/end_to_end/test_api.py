"""The Python API: its examples run, its errors are typed, and importing it costs nothing."""

import doctest
import errno
import inspect
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import seer_edge
import seer_edge.envs.guarded
from seer_edge.runs.run_folder import RunFolder
from tests.end_to_end.test_imports import modules_after

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
IN_ORDER = (
    "plan",
    "train",
    "resume",
    "fork",
    "plan_of_run",
    "report",
    "evaluate",
    "export",
    "record",
    "act",
    "sweep",
    "reproduce",
    "analyze",
)  # later examples use the files of earlier ones


def test_every_function_has_an_example() -> None:
    functions = {name for name in seer_edge.__all__ if inspect.isfunction(getattr(seer_edge, name))}
    assert functions == set(IN_ORDER)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    for name in IN_ORDER:
        [example] = doctest.DocTestFinder(recurse=False).find(getattr(seer_edge, name), name, globs={})
        assert example.examples, name
        failures, _ = runner.run(example)
        assert failures == 0, name


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = modules_after("import seer_edge; seer_edge.__version__; dir(seer_edge)")
    assert not modules & {"torch", "numpy", "onnxruntime", "cv2", "argparse", "seer_edge.api", "seer_edge.config"}


def test_planning_imports_no_torch() -> None:
    modules = modules_after("import seer_edge; seer_edge.plan('Alien'); seer_edge.BytePlan")
    assert not modules & {"torch", "onnx", "onnxruntime", "argparse", "seer_edge.cli"}


def test_a_policy_imports_the_runtime_alone() -> None:
    modules = modules_after("import seer_edge; seer_edge.Policy")
    assert not modules & {"torch", "seer_edge.config", "seer_edge.api"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seer_edge.plan("Alein"), "--env Alein: unknown environment; nearest: Alien"),
        (lambda: seer_edge.plan("Alien", mem_budget="7Gbit"), "--mem-budget: '7Gbit' is not a size"),
        (lambda: seer_edge.plan("Alien", mem_budget=0.5), "--mem-budget: cannot be 0.5; give a whole number"),
        (lambda: seer_edge.plan("Alien", seed="3"), "--seed: cannot be '3'; give a whole number"),
        (lambda: seer_edge.plan("Alien", color="blue"), "--color blue: unknown value; choose one of gray, rgb"),
        (lambda: seer_edge.plan("Alien", gray_levels=8), "--gray-levels 8: unknown value; choose one of 16, 32, 64"),
        (lambda: seer_edge.plan("Alien", gray_levels="32"), "--gray-levels 32: unknown value; choose one of 16"),
        (lambda: seer_edge.plan("Alien", gray_levels=32.0), "--gray-levels: cannot be 32.0"),
        (lambda: seer_edge.plan("Alien", set={"gama": 0.9}), "--set gama=0.9: unknown hyperparameter; nearest: gamma"),
        (lambda: seer_edge.plan("Alien", checkpoint_every=True), "--checkpoint-every: cannot be True"),
        (lambda: seer_edge.plan("Alien", env_timeout="1"), "--env-timeout: '1' is not a duration"),
        (lambda: seer_edge.plan("Alien", env_timeout=0.0), "--env-timeout 0s: give a time above 0s and up to a year"),
        (lambda: seer_edge.act("nowhere", env_timeout=-1), "--env-timeout -1s: give a time above 0s and up to a year"),
        (lambda: seer_edge.act("nowhere", env_timeout=True), "--env-timeout: cannot be True; give a number"),
        (lambda: seer_edge.record("Alien", "demos", hz=-5.0), "--hz -5: give a rate from 0.001 to 1000"),
        (lambda: seer_edge.train("Alien", latent_codec="x"), "--latent-codec x: choose one of float32"),
        (lambda: seer_edge.report("runs/a", "r.html"), "report: 'runs/a' is one path; give a list of folders"),
        (lambda: seer_edge.report(["a"], "r.html", at_step="3"), "--at-step '3': cannot be used"),
        (lambda: seer_edge.analyze("runs/a", "out"), "analyze: 'runs/a' is one path; give a list of folders"),
        (lambda: seer_edge.analyze([], "out"), "analyze: no run; name at least one folder"),
        (lambda: seer_edge.analyze(["a"], "out", rows=3), "--rows 3: give a whole number from 16"),
        (lambda: seer_edge.analyze(["a"], "out", apart=0), "--apart 0: give a whole number from 1"),
        (lambda: seer_edge.report(["a"], "r.html", at_flops=-1.0), "--at-flops -1.0: cannot be used"),
        (lambda: seer_edge.resume("nowhere"), "nowhere: there is no such file or folder"),
        (lambda: seer_edge.evaluate("nowhere", episodes=0), "--episodes 0: give a whole number from 1 to"),
        (lambda: seer_edge.export("nowhere", "x.seer", with_=["all"]), "--with all: unknown value; choose one of"),
        (lambda: seer_edge.act("nowhere", epsilon=2), "--epsilon 2: give a number from 0 to 1"),
    ],
)
def test_bad_input_raises_one_clear_line(
    call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(seer_edge.BadInputError) as refusal:
        call()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EROFS, "make the folder writable")])
def test_a_resume_that_cannot_write_names_the_checkpoint_that_is_kept(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.syspath_prepend(str(EXAMPLES))
    options: seer_edge.RunOptions = {"mem_budget": "1MB", "total_timesteps": 20, "eval_every": "never"}
    seer_edge.train("camera_env:Camera-v0", run_dir=tmp_path / "run", **options)
    monkeypatch.setattr(RunFolder, "repair", fail)
    opened = set(seer_edge.envs.guarded._OPEN)
    with pytest.raises(seer_edge.RunStoppedError) as stopped:
        seer_edge.resume(tmp_path / "run", total_timesteps=30)
    assert str(stopped.value).endswith(f"; the newest checkpoint is of step 20: {advice}, then resume")
    assert set(seer_edge.envs.guarded._OPEN) <= opened


def test_a_callback_that_fails_ends_the_run_with_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(row: Mapping[str, float]) -> None:
        if row["time/total_timesteps"] >= 20:
            raise ConnectionError("no route to the dashboard")

    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    options: seer_edge.RunOptions = {"mem_budget": "1MB", "total_timesteps": 40, "freeze_at": "never"}
    with pytest.raises(RuntimeError, match="on_progress failed: no route to the dashboard"):
        seer_edge.train("camera_env:Camera-v0", run_dir="run", on_progress=send, **options)
    assert json.loads(Path("run/summary.json").read_text())["status"] == "failed"
    assert seer_edge.resume("run", total_timesteps=20).timestep == 20


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mem_buget"):
        seer_edge.plan("Alien", mem_buget="1GB")  # type: ignore[call-arg]


def test_the_library_prints_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    seer_edge.plan("camera_env:Camera-v0")
    assert capfd.readouterr() == ("", "")
    assert str(tmp_path) in sys.path  # where a user's own module is looked for
