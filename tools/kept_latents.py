"""Save data of a float32 run's latents while it runs, before its ring overwrites them.

The data are the rows that codecs are calibrated on, and how often dimensions that were zero at the freeze are nonzero
later. Rows are counted at each checkpoint. Rows that the ring overwrites between two checkpoints are not counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecbench import calibrating_latents, carried_rows_are_held, latents_of, open_session
from commandline import BadInputError
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seer_edge.training.session import Session


@dataclass
class Kept:
    """Saved data of the float32 run's latents, which have D = N L dimensions a row."""

    seen: NDArray[Any]  # [B, N, L], the latents that codecs were calibrated on
    silent: NDArray[Any]  # [D], dimensions that are zero on all rows converted at the freeze
    carried: int  # number of rows converted at the freeze
    fired: NDArray[Any]  # [D], number of later rows in which a dimension was nonzero
    speaking: int  # number of later rows in which a silent dimension was nonzero
    later: int  # number of later rows counted
    next_id: int  # id of the first row not yet counted
    timestep: int  # step of the last counted checkpoint

    @classmethod
    def begin(cls, session: "Session", carried: int) -> "Kept":
        """Start from a session whose ring still holds all `carried` rows that were converted at the freeze."""
        import numpy as np

        rows = latents_of(session, 0, carried, carried).reshape(carried, -1)
        return cls(
            seen=calibrating_latents(session, carried),
            silent=~rows.any(axis=0),
            carried=carried,
            fired=np.zeros(rows.shape[1], np.int64),
            speaking=0,
            later=0,
            next_id=session.replay.store.oldest + carried,
            timestep=-1,
        )

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """Read a file that `write` wrote."""
        import numpy as np

        with np.load(path) as arrays:
            return cls(**{name: value if value.ndim else int(value) for name, value in arrays.items()})

    def write(self, path: Path) -> None:
        """Write the data to `path`, replacing it."""
        import numpy as np

        new = path.with_name(f"new_{path.name}")
        np.savez(new, **vars(self))
        new.replace(path)

    def add(self, session: "Session") -> None:
        """Count the rows appended since the last call, except those that the ring has overwritten."""
        store = session.replay.store
        first, self.timestep = max(self.next_id, store.oldest), session.timestep
        if first < store.appended:
            new = latents_of(session, first - store.oldest, store.rows, store.appended - first)
            fires = new.reshape(len(new), -1) != 0
            self.fired += fires.sum(axis=0)
            self.speaking += int(fires[:, self.silent].any(axis=1).sum())
            self.later += len(new)
            self.next_id = store.appended

    def describe(self) -> str:
        """Describe the silent dimensions in one line."""
        often = self.fired[self.silent]
        most = int(often.max()) if len(often) else 0
        return (
            f"{int(self.silent.sum())} of {len(self.silent)} dimensions are zero on all {self.carried:,} rows of the "
            f"freeze; {int((often > 0).sum())} of them are nonzero on some of {self.later:,} later rows, one of them "
            f"on {most:,}; {self.speaking:,} rows have such a value"
        )


def keep(run: Path, path: Path) -> None:
    """Add the newest checkpoint of the float32 run to the data at `path`, if it is new and after the freeze."""
    steps = [int(folder.name.removeprefix("step_")) for folder in (run / "checkpoints").glob("step_*")]
    known = Kept.read(path) if path.exists() else None
    config = json.loads((run / "config.json").read_text())
    if not steps or max(steps) <= max(config["freeze_at"], -1 if known is None else known.timestep):
        return
    try:
        session, carried = open_session(run)
    except BadInputError:  # the run removed it meanwhile; use the next one
        return
    try:
        if known is None and not carried_rows_are_held(session, carried):
            return
        known = known or Kept.begin(session, carried)
        known.add(session)
        known.write(path)
    finally:
        session.env.close()
