"""Run the command line: `python -m seer_edge`."""

import sys

from seer_edge.cli import main

sys.exit(main())
