"""Run the command line: `python -m seer_edge`."""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(Path.cwd()):  # of `python -m`: a user's onnx.py would hide the package onnx
    del sys.path[0]

from seer_edge.cli import main

sys.exit(main())
