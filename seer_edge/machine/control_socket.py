"""A Unix domain socket that takes commands from other programs of the same user. Imports no torch.

Import it only where a socket is asked for, because `socketserver` takes memory.
"""

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path

PATH_BYTES_MAX = 107
"""What Linux takes as the path of a socket."""
COMMAND_BYTES_MAX = 256
ANSWER_SECONDS = 1.0


class ControlSocket:
    """Context manager: answer each line that arrives at `path` with the line that `obey` returns for it.

    `obey` gets the line without spaces around it, in a thread for each connection. A socket that a killed program left
    behind is replaced. Only the same user can connect. Raises OSError if the socket cannot be made.
    """

    def __init__(self, path: str, obey: Callable[[str], str]) -> None:
        self._path, self._obey = path, obey

    def __enter__(self) -> "ControlSocket":
        handler = type("CommandHandler", (_Handler,), {"obey": staticmethod(self._obey)})
        server = socketserver.ThreadingUnixStreamServer(self._path, handler, bind_and_activate=False)
        server.daemon_threads, server.block_on_close = True, False
        try:
            if Path(self._path).is_socket() and not _is_used(self._path):
                Path(self._path).unlink()
            server.server_bind()
            Path(self._path).chmod(0o600)  # before anyone can connect
            server.server_activate()
        except BaseException:
            server.server_close()
            raise
        self._server = server
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(OSError):
            Path(self._path).unlink()


class _Handler(socketserver.StreamRequestHandler):
    obey: Callable[[str], str]

    def handle(self) -> None:
        """Answer lines until the other side closes."""
        with contextlib.suppress(OSError):
            while (command := self._command()) is not None:
                self.wfile.write(f"{self.obey(command)}\n".encode())

    def _command(self) -> str | None:
        """Return the next line, and "…" for those bytes that are too many for a command. Return None at the end."""
        line = end = self.rfile.readline(COMMAND_BYTES_MAX)
        while end and not end.endswith(b"\n"):
            end = self.rfile.readline(COMMAND_BYTES_MAX)
        text = line.decode(errors="replace")
        if not end:
            return None
        return text.strip() if end is line else f"{text}…"


def check_path(path: str) -> None:
    """Raise ValueError, which says what to do, if no socket can be made at `path`."""
    place = Path(path)
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ValueError(f"is longer than {PATH_BYTES_MAX} bytes; give a shorter path")
    if not os.access(place.parent, os.W_OK | os.X_OK) or not place.parent.is_dir():
        raise ValueError(f"{place.parent} is not a folder that can be written; name another")
    if os.path.lexists(path) and not place.is_socket():
        raise ValueError("is a file, not a socket; name another path")
    if os.path.lexists(path) and _is_used(path):
        raise ValueError("is in use by another program; name another path")


def _is_used(path: str) -> bool:
    """Whether a program listens at `path`."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ANSWER_SECONDS)
        try:
            asking.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
