"""Taking another run's encoder (Section 5.4): what it was made for, and whether it fits. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from seer_edge import checkpoint
from seer_edge.algorithms import ALGORITHMS
from seer_edge.errors import BadInputError
from seer_edge.plan import BytePlan

UPDATES = "updates"
"""The array in which an agent's state counts them."""


@dataclass(frozen=True)
class TakenEncoder:
    """The encoder of a run's newest sound generation."""

    timestep: int
    arrays: dict[str, NDArray[Any]]
    warnings: tuple[str, ...]  # a line for each newer generation that is not sound, and for a run that has not learned


def take_encoder(run: str, plan: BytePlan) -> TakenEncoder:
    """The encoder of the folder `run`. Raises BadInputError where there is none, or none that fits `plan`."""
    try:
        prefixes = (*ALGORITHMS[plan.config.algo].encoder_arrays, UPDATES)
        saved = checkpoint.read_agent(Path(run) / "checkpoints", prefixes)
    except BadInputError as error:
        raise BadInputError(f"--from {run}: {error}; give the --run-dir of a run") from error
    wanted = json.loads(json.dumps(checkpoint.encoder_identity(plan)))
    for what, value in wanted.items():
        found = saved.encoder.get(what)
        if found != value:
            raise BadInputError(
                f"--from {run}: its encoder does not fit: {what} {_shown(found)} there, {_shown(value)} here; "
                f"take that of a run like this one"
            )
    warnings = saved.skipped
    if not saved.arrays.pop(UPDATES):
        warnings += (f"warning: --from {run}: that run had made no update by step {saved.timestep}",)
    return TakenEncoder(saved.timestep, saved.arrays, warnings)


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
