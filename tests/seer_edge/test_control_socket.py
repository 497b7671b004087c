"""The control socket: who can use it, its answers, and paths that are refused."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from seer_edge.machine.control_socket import COMMAND_BYTES_MAX, ControlSocket, check_path
from tests.sockets import ask


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A path that is short enough for a socket."""
    monkeypatch.chdir(tmp_path)
    return "robot.sock"


def _echo(command: str) -> str:
    return f"obeyed {command}"


def test_each_line_is_answered_and_the_socket_is_removed_at_the_end(path: str) -> None:
    with ControlSocket(path, _echo):
        assert ask(path, "pause") == ["obeyed pause"]
        assert ask(path, " status \r", "\xff", "") == ["obeyed status", "obeyed \xff", "obeyed "]
    assert not os.path.lexists(path)


def test_only_the_same_user_can_connect(path: str) -> None:
    umask = os.umask(0)
    try:
        with ControlSocket(path, _echo):
            assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    finally:
        os.umask(umask)


def test_a_line_that_is_too_long_is_cut_and_marked(path: str) -> None:
    long = "stop".ljust(COMMAND_BYTES_MAX) + 100_000 * "x"
    with ControlSocket(path, _echo):
        assert ask(path, long, "status") == [f"obeyed {long[:COMMAND_BYTES_MAX]}…", "obeyed status"]


def test_a_line_without_an_end_is_not_obeyed(path: str) -> None:
    heard: list[str] = []
    with ControlSocket(path, lambda command: str(heard.append(command))), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        client.sendall(b"stop")
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b""
    assert heard == []


def test_a_socket_that_a_killed_program_left_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    check_path(path)
    with ControlSocket(path, _echo):
        assert ask(path, "status") == ["obeyed status"]


def test_the_socket_of_a_running_program_is_not_replaced(path: str) -> None:
    with ControlSocket(path, _echo):
        with pytest.raises(ValueError, match="in use by another program; name another path"):
            check_path(path)
        with pytest.raises(OSError, match="in use"), ControlSocket(path, str):
            pass
        assert ask(path, "status") == ["obeyed status"]


def _file(path: Path) -> Path:
    path.write_text("kept")
    return path


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda folder: folder / ("x" * 100) / "robot.sock", "is longer than 107 bytes; give a shorter path"),
        (lambda folder: folder / "none" / "s", "is not a folder that can be written; name another"),
        (lambda folder: _file(folder / "s"), "is a file, not a socket; name another path"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused(
    place: Callable[[Path], Path], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = place(Path())
    with pytest.raises(ValueError, match=reason):
        check_path(str(path))
    assert not path.exists() or path.read_text() == "kept"
