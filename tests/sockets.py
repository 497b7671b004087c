"""Commands for the control socket of a run."""

import socket

SECONDS = 60


def ask(path: str, *commands: str) -> list[str]:
    """Send commands over one connection; return the answer to each."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(path)
        answers = client.makefile(encoding="utf-8")
        found = []
        for command in commands:
            client.sendall(f"{command}\n".encode())
            found.append(answers.readline().rstrip("\n"))
        return found
