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


@dataclass(frozen=True)
class TakenEncoder:
    """The encoder of a run's newest sound generation."""

    timestep: int
    arrays: dict[str, NDArray[Any]]
    warnings: tuple[str, ...]  # a line for each newer generation that is not sound, and for a run that has not learned


def take_encoder(run: str, plan: BytePlan) -> TakenEncoder:
    """The encoder of the folder `run`. Raises BadInputError where there is none, or none that fits `plan`."""
    try:
        saved = checkpoint.newest(Path(run) / "checkpoints")
        with checkpoint.reading(saved.path):
            agent = saved.agent(ALGORITHMS[plan.config.algo].encoder_arrays)
    except BadInputError as error:
        raise BadInputError(f"--from {run}: {error}; give the --run-dir of a run") from error
    wanted = json.loads(json.dumps(checkpoint.encoder_identity(plan)))
    identity = saved.state.get("encoder")
    for what, value in wanted.items():
        found = identity.get(what) if isinstance(identity, dict) else None
        if found != value:
            raise BadInputError(
                f"--from {run}: its encoder does not fit: {what} {_shown(found)} there, {_shown(value)} here; "
                f"take that of a run like this one"
            )
    warnings = saved.skipped
    if not agent.values.get("updates"):
        warnings += (f"warning: --from {run}: that run had made no update by step {saved.timestep}",)
    return TakenEncoder(saved.timestep, dict(agent.arrays), warnings)


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
