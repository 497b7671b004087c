"""Environments that stay open after a plan or an evaluation: who uses them again, and when they are closed."""

from typing import Any, ClassVar

import pytest

from seer_edge.api.planning import open_spec
from seer_edge.envs import EnvOptions
from seer_edge.envs import guarded as guarded_module
from seer_edge.envs.guarded import Guarded, closing_idle, open_guarded
from tests.seer_edge.env_registry import register
from tests.seer_edge.test_env_guarded import Odd, Reusing

pytestmark = pytest.mark.usefixtures("release_generators")


class Library:
    """A library that closes for the whole process."""

    open = False


class UsesLibrary(Reusing):
    """An environment that opens the library when it is built, and shuts it down when it is closed."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        Library.open = True
        UsesLibrary.built += 1

    def step(self, action: Any) -> Any:
        assert Library.open, "the library was shut down"
        return super().step(action)

    def close(self) -> None:
        Library.open = False


def test_closing_one_environment_does_not_shut_a_library_down_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Library-v0", entry_point=UsesLibrary, disable_env_checker=True)
    monkeypatch.setattr(UsesLibrary, "built", 0)
    env = open_guarded("test/Library-v0", EnvOptions(), seed=0, training=True)
    env.reset()
    for seed in (1, 2):
        evaluation = open_guarded("test/Library-v0", EnvOptions(), seed=seed, training=False)
        evaluation.reset()
        evaluation.close()
        env.step(0)
    assert UsesLibrary.built == 2  # the second evaluation used the environment of the first again
    env.close()
    assert not Library.open
    assert not guarded_module._IDLE


class OpensOnce(Reusing):
    """A device that can be opened once in the life of the process."""

    seeds: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        assert not self.seeds, "the device is busy"
        self.seeds.append(None)
        super().__init__()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        return super().reset(seed=seed)


def test_the_environment_of_a_plan_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Once-v0", entry_point=OpensOnce, disable_env_checker=True)
    monkeypatch.setattr(OpensOnce, "seeds", [])
    with closing_idle():
        open_spec("test/Once-v0", EnvOptions(), 60.0)
        # The run knows the options that the environment has chosen.
        options = EnvOptions("machado", resize="area", action_repeat=4)
        env = open_guarded("test/Once-v0", options, seed=7, training=True)
        env.reset()
        env.step(0)
    assert OpensOnce.seeds == [None, 0, 7]
    assert not guarded_module._IDLE
    env.close()


def test_an_environment_that_no_run_uses_is_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Library-v0", entry_point=UsesLibrary, disable_env_checker=True)
    with closing_idle():
        open_spec("test/Library-v0", EnvOptions(), 60.0)
        assert Library.open
    assert not Library.open


def test_an_idle_environment_is_closed_before_another_one_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Library-v0", entry_point=UsesLibrary, disable_env_checker=True)
    monkeypatch.setattr(UsesLibrary, "built", 0)
    with closing_idle():
        open_spec("test/Library-v0", EnvOptions(), 60.0)
        open_guarded("test/Library-v0", EnvOptions(color="rgb"), seed=0, training=True).close()
    assert UsesLibrary.built == 2
    assert not guarded_module._IDLE


def test_an_environment_that_cannot_be_closed_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_module, "_reported", set())
    for _ in range(2):
        Guarded(Odd(step=RuntimeError("no\nlink"))).close()
    [record] = caplog.records
    assert "'Odd-v0': could not be closed: RuntimeError: no link" in record.message
