"""The text that `plan` prints with real presets."""

import re
from collections.abc import Callable

import pytest

from tests.end_to_end.short_presets import runner

pytestmark = pytest.mark.usefixtures("each_environment_opens_once")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that prints a plan and returns its text."""
    run = runner(monkeypatch, capsys)

    def text(*words: str) -> str:
        status, printed, _ = run("plan", *words)
        assert status == 0
        return printed

    return text


def test_the_plan_warns_of_a_codec_that_shrinks_the_capacity(plan: Callable[..., str]) -> None:
    text = plan("--env", "alien", "--encoder", "canonical")
    assert "warning: --latent-codec float32: the freeze will shrink the capacity from 9,920 to 5,580 rows" in text
    assert "float16 (11,160 rows)" in text


def test_the_plan_warns_of_a_budget_larger_than_the_memory_of_this_machine(plan: Callable[..., str]) -> None:
    (warning,) = re.findall("warning: (.*)\n", plan("--env", "Alien", "--mem-budget", "100000GB"))
    assert re.match(r"--mem-budget 10{14}: the process would need about .*; --mem-budget \S+ \(.*\) would", warning)


def test_the_plan_of_alien_shows_capacities_and_the_freeze(plan: Callable[..., str]) -> None:
    text = plan("--env", "Alien", "--mem-budget", "0.07GB")
    for figure in ("70,000,000 B", "7,056", "9,920 rows", "step 100,000 of 500,000", "2,304", "30,380 rows"):
        assert figure in text
    assert "warning" not in text


def test_the_plan_of_a_control_task_shows_capacities_and_the_freeze(plan: Callable[..., str]) -> None:
    text = plan("--env", "cartpole-swingup", "--mem-budget", "0.03GB")
    for figure in ("30,000,000 B", "30,000", "1,000 rows", "step 10,000 of 62,500", "1,600 (L = 50, N = 2, K = 4"):
        assert figure in text
    assert "18,750 rows (18.75x)" in text
    assert "warning" not in text
