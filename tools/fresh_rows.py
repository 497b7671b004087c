"""Resume a run whose replay, after the freeze, overwrites old rows before it grows. `armruns.py` compares such runs.

    python tools/fresh_rows.py RUN

With R rows at the freeze, the released code overwrites the oldest of them for R more steps, and only then uses the room
that latents leave. So it learns from fresher rows for a while. Here the sampler leaves out the rows that the released
code no longer has. Their memory stays in use. Only for `--store paper` and `--replay uniform`.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from commandline import BadInputError
from forks import resume_changed
from numpy.typing import NDArray

from seer_runtime.replay.samplers import UniformSampler
from seer_runtime.replay.storage import Ids

if TYPE_CHECKING:
    from seer_edge.config.config import TrainConfig

NOTE = "fresh_rows.json"


class FreshSampler(UniformSampler):
    """Samples, after the freeze, only rows that the released code would still hold.

    With R rows at the freeze and t appended since, these are the newest R rows while t < R, and then all t rows.
    `note` is a file in the run's folder that keeps R and the number of rows appended before the freeze.
    """

    note: ClassVar[Path]
    _frozen: tuple[int, int] | None = None  # rows appended and rows held at the freeze

    def rebuild(self, ids: Ids, priorities: NDArray[np.float64]) -> None:
        """See `Sampler`. The first call with latents is the freeze."""
        store = self._store
        if store.codec.dtype == np.uint8:  # frames
            return
        if not self.note.exists():
            self.note.write_text(json.dumps([store.appended, store.rows]))
        appended, rows = json.loads(self.note.read_text())
        self._frozen = appended, rows

    @property
    def first(self) -> int:
        """The oldest row that is sampled."""
        if self._frozen is None:
            return self._store.oldest
        appended, rows = self._frozen
        return max(self._store.oldest, min(self._store.appended - rows, appended))

    def propose(self, rng: np.random.Generator, count: int) -> Ids:
        """See `Sampler`."""
        return rng.integers(self.first, self._store.appended, count)


def sample_fresh_rows(run: Path, config: "TrainConfig") -> None:
    """Let training use the sampler above. Raises BadInputError where `run` samples otherwise."""
    from seer_edge.training import components

    if config.compact or config.replay != "uniform":
        raise BadInputError(f"{run}: needs --store paper and --replay uniform; name another run")
    FreshSampler.note = run / NOTE
    components.UniformSampler = FreshSampler


if __name__ == "__main__":
    sys.exit(resume_changed("fresh_rows.py", (__doc__ or "").splitlines()[0], sample_fresh_rows))
