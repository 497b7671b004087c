"""Resume a run whose replay, after the freeze, overwrites old rows before it grows. `armruns.py` compares such runs.

    python tools/fresh_rows.py RUN

With R rows at the freeze, the released code overwrites the oldest of them for R more steps, and only then uses the room
that latents leave. So it learns from fresher rows for a while. Here the sampler leaves out the rows that the released
code no longer has. Their memory stays in use. Only for `--store paper` and prioritized replay.
"""

import json
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
from commandline import BadInputError, Parser, run_tool
from numpy.typing import NDArray

from seer_runtime.replay.samplers import PrioritizedSampler
from seer_runtime.replay.storage import Ids

NOTE = "fresh_rows.json"


class FreshSampler(PrioritizedSampler):
    """Samples, after the freeze, only rows that the released code would still hold.

    With R rows at the freeze and t appended since, these are the newest R rows while t < R, and then all t rows.
    `note` is a file in the run's folder that keeps R and the number of rows appended before the freeze.
    """

    note: ClassVar[Path]
    _first = 0  # the oldest row that may be sampled
    _frozen: tuple[int, int] | None = None  # rows appended and rows held at the freeze

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """See `Sampler`. The first call with latents is the freeze."""
        super().rebuild(ids, priorities)
        store = self._store
        if store.codec.dtype == np.uint8:  # frames
            return
        if not self.note.exists():
            self.note.write_text(json.dumps([store.appended, store.rows]))
        appended, rows = json.loads(self.note.read_text())
        self._frozen, self._first = (appended, rows), store.oldest
        self._leave_out()

    def appended(self, row_id: int) -> None:
        """See `Sampler`."""
        super().appended(row_id)
        self._leave_out()

    def _leave_out(self) -> None:
        if self._frozen is None:
            return
        appended, rows = self._frozen
        first = min(self._store.appended - rows, appended)
        given_up = np.arange(max(self._first, self._store.oldest), first)
        if len(given_up):
            self._tree.set(self._store.slots(given_up), 0.0)
        self._first = max(self._first, first)

    def update(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """See `Sampler`. Rows that are left out stay so."""
        used = ids >= self._first
        super().update(ids[used], priorities[used])


def resume(run: Path) -> int:
    """Resume `run` with the sampler above; return the exit status."""
    from seer_edge.cli import main as run_command
    from seer_edge.runs.run_folder import RunFolder, is_run
    from seer_edge.training import components

    if not is_run(run):
        raise BadInputError(f"{run}: is not the folder of a run; name one")
    config = RunFolder(run).read_config()
    if config.compact or config.replay != "prioritized":
        raise BadInputError(f"{run}: needs --store paper and prioritized replay; name another run")
    FreshSampler.note = run / NOTE
    components.PrioritizedSampler = FreshSampler  # type: ignore[misc]
    sys.argv = ["seer-edge", "resume", str(run)]
    return run_command()


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="fresh_rows.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, stopped before its freeze")
    return run_tool("fresh_rows.py", lambda: resume(parser.parse_args().run))


if __name__ == "__main__":
    sys.exit(main())
