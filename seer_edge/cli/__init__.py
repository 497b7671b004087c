"""The command line: what a user types and reads.

May import every other folder. No folder imports this one.
Start with `commands.py` (one function a command), then `flags.py` (the parser) and `output.py` (logging).
The work is done by the functions of `seer_edge.api`.
"""

from seer_edge.cli.commands import main

__all__ = ["main"]
