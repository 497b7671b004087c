"""Tests of systemd notification: a real socket and a clock that the test advances."""

import os
import socket
import time
from pathlib import Path

import pytest

from seer_runtime.system.notify import ServiceWatchdog


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _listen(address: str) -> socket.socket:
    service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    service.bind(address)
    service.setblocking(False)
    return service


def _received(service: socket.socket) -> list[bytes]:
    messages = []
    while True:
        try:
            messages.append(service.recv(64))
        except BlockingIOError:
            return messages


@pytest.mark.parametrize("abstract", [False, True])
def test_watchdog_sends_ready_then_alive_at_half_the_interval(tmp_path: Path, abstract: bool) -> None:
    name = f"seer-edge-{os.getpid()}"
    address = f"@{name}" if abstract else str(tmp_path / "notify")
    with _listen(f"\0{name}" if abstract else address) as service:
        clock = _Clock()
        watchdog = ServiceWatchdog({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000"}, clock=clock)
        assert _received(service) == []
        watchdog.alive()
        assert _received(service) == [b"READY=1"]
        for second in range(100, 112):
            clock.now = second + 0.5
            watchdog.alive()
            watchdog.alive()
        assert _received(service) == [b"WATCHDOG=1"] * 2  # at 104.5 and 108.5


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid() + 1)},
    ],
)
def test_only_ready_is_sent_without_a_watchdog_for_this_process(tmp_path: Path, variables: dict[str, str]) -> None:
    with _listen(str(tmp_path / "notify")) as service:
        clock = _Clock()
        watchdog = ServiceWatchdog({"NOTIFY_SOCKET": str(tmp_path / "notify"), **variables}, clock=clock)
        for _ in range(5):
            watchdog.alive()
            clock.now += 1e6
        assert _received(service) == [b"READY=1"]


def test_alive_is_sent_if_the_watchdog_names_this_process(tmp_path: Path) -> None:
    with _listen(str(tmp_path / "notify")) as service:
        clock = _Clock()
        variables = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "1000000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        watchdog = ServiceWatchdog(variables, clock=clock)
        watchdog.alive()
        clock.now += 1
        watchdog.alive()
        assert _received(service) == [b"READY=1", b"WATCHDOG=1"]


def test_no_socket_is_opened_without_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
    watchdog = ServiceWatchdog({})
    assert [watchdog.asked(answer)() for answer in (lambda: True, lambda: False)] == [True, False]


def test_a_socket_that_is_missing_or_full_does_not_block(tmp_path: Path) -> None:
    ServiceWatchdog({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).alive()
    with _listen(str(tmp_path / "notify")) as service:
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2"}
        watchdog = ServiceWatchdog(variables)
        begin = time.monotonic()
        for _ in range(2_000):  # more than any socket queue holds
            watchdog.alive()
        assert time.monotonic() - begin < 10
        assert _received(service)[0] == b"READY=1"
