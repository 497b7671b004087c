"""Child processes that an environment leaves running neither keep the program alive nor ignore its signals."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from seer_edge.cli import leftovers
from seer_edge.envs.ended_at_rest import ending_afterwards, moving
from seer_edge.machine.signals import StopSignal

FORK: Any = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(logging.getLogger("seer_edge"), "propagate", True)
    yield
    for child in multiprocessing.active_children():
        child.kill()


def _deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1_000)


def test_children_that_keep_running_are_terminated_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    children = [FORK.Process(target=time.sleep, args=(1_000,), name="camera"), FORK.Process(target=_deaf, daemon=True)]
    for child in children:
        child.start()
    time.sleep(0.1)  # until it ignores the signal
    leftovers.end_despite_leftovers(0)
    for child in children:
        child.join(5)
    assert [child.exitcode for child in children] == [-signal.SIGTERM, -signal.SIGKILL]
    [record] = caplog.records
    assert record.message == "the environment left processes running, which are terminated: camera"


def test_children_that_end_are_not_reported(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 60.0)  # for a slow machine; the wait ends with the child
    child = FORK.Process(target=time.sleep, args=(0.01,))
    child.start()
    leftovers.end_despite_leftovers(0)
    assert child.exitcode == 0
    assert caplog.records == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("handling", [StopSignal, ending_afterwards])
def test_children_do_not_inherit_the_handlers_of_a_robot(handling: Any, number: int) -> None:
    ready = FORK.Event()
    with handling() as stop, moving():
        if stop is not None:
            signal.raise_signal(signal.SIGTERM)  # of the parent, which records it
        child = FORK.Process(target=_wait, args=(ready,))
        child.start()
    assert ready.wait(5)
    os.kill(child.pid, number)
    child.join(5)
    assert child.exitcode == -number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_children_do_not_inherit_the_handlers_of_a_run(number: int) -> None:
    ready = FORK.Event()
    with StopSignal() as stop:
        child = FORK.Process(target=_wait, args=(ready,))
        child.start()
        signal.raise_signal(number)  # of the parent, which records it
    assert ready.wait(5)
    os.kill(child.pid, number)
    child.join(5)
    assert child.exitcode == -number
    assert stop.received == number


def _wait(ready: Any) -> None:
    ready.set()
    time.sleep(1_000)


def test_children_keep_the_handlers_that_an_environment_has_installed() -> None:
    with StopSignal():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = FORK.Process(target=_check_ignored)
        child.start()
        child.join(5)
    assert child.exitcode == 0


def _check_ignored() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
