"""What of a float32 run's latents its ring will have overwritten in the end, kept while it runs.

The rows that grids are calibrated on, and how often the dimensions that were silent at the freeze fire later. Rows are
counted a generation at a time; where generations are further apart than the ring is long, those between are lost.
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
    """Of the float32 run's latents, D = N L dimensions a row."""

    seen: NDArray[Any]  # [B, N, L], what the grids were calibrated on
    silent: NDArray[Any]  # [D], zero on every row carried through the freeze
    carried: int  # these rows
    fired: NDArray[Any]  # [D], later rows in which it was not zero
    speaking: int  # later rows in which a silent one was not zero
    later: int  # later rows counted
    next_id: int  # of the first row not yet counted
    timestep: int  # of the generation that was looked at last

    @classmethod
    def begin(cls, session: "Session", carried: int) -> "Kept":
        """Where the ring still holds all that the freeze carried over."""
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
        """What `write` wrote."""
        import numpy as np

        with np.load(path) as arrays:
            return cls(**{name: value if value.ndim else int(value) for name, value in arrays.items()})

    def write(self, path: Path) -> None:
        """Replace `path`."""
        import numpy as np

        new = path.with_name(f"new_{path.name}")
        np.savez(new, **vars(self))
        new.replace(path)

    def add(self, session: "Session") -> None:
        """Count the rows that came since; those that were overwritten meanwhile are lost."""
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
        """The silent dimensions in a line."""
        often = self.fired[self.silent]
        most = int(often.max()) if len(often) else 0
        return (
            f"{int(self.silent.sum())} of {len(self.silent)} dimensions are zero on all {self.carried:,} rows of the "
            f"freeze; {int((often > 0).sum())} of them are not on one of {self.later:,} later rows, the busiest on "
            f"{most:,}; {self.speaking:,} rows have one that is not"
        )


def keep(run: Path, path: Path) -> None:
    """Look at the newest generation of the float32 run, if it is new and after the freeze."""
    steps = [int(folder.name.removeprefix("step_")) for folder in (run / "checkpoints").glob("step_*")]
    known = Kept.read(path) if path.exists() else None
    config = json.loads((run / "config.json").read_text())
    if not steps or max(steps) <= max(config["freeze_at"], -1 if known is None else known.timestep):
        return
    try:
        session, carried = open_session(run)
    except BadInputError:  # removed while it was read: the next one will do
        return
    try:
        if known is None and not carried_rows_are_held(session, carried):
            return
        known = known or Kept.begin(session, carried)
        known.add(session)
        known.write(path)
    finally:
        session.env.close()
