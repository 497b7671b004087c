"""The program: the command `seer-edge` and `python -m seer_edge`."""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(Path.cwd()):  # of `python -m`: a user's onnx.py would hide the package onnx
    del sys.path[0]

INTERRUPTED = 130


def main() -> int:
    """Run the command line and return the exit status. Ctrl-C during the imports ends quietly."""
    try:
        from seer_edge.cli import main as run
    except KeyboardInterrupt:
        return INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
