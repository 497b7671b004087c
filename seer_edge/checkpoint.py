"""What a generation holds: the agent, the frozen encoder, the replay, and the state of every random stream."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from seer_edge.errors import BadInputError
from seer_edge.plan import BytePlan
from seer_runtime import durable

if TYPE_CHECKING:
    from seer_edge.loop import Session  # which imports torch

AGENT, ENCODER, REPLAY, STATE = "agent.safetensors", "encoder.onnx", "replay.safetensors", "state.json"


def save(session: "Session", checkpoints: Path) -> Path:
    """Publish a generation of the session as it stands. Raises OSError where it cannot be written."""

    def write(folder: Path) -> None:
        durable.write_tensors(folder / AGENT, session.agent.state_arrays())
        durable.write_tensors(folder / REPLAY, session.replay.state_arrays())
        if session.graph is not None:
            durable.write_atomic(folder / ENCODER, session.graph)
        state = {
            "timestep": session.timestep,
            "frozen": session.agent.frozen,
            "encoder": encoder_identity(session.plan),
            "replay": session.replay.state(),
        }
        durable.write_json(folder / STATE, state)

    return durable.publish_generation(checkpoints, session.timestep, write)


def encoder_identity(plan: BytePlan) -> dict[str, Any]:
    """What an encoder was made for: another run can take it where all of this is the same (Section 5.4)."""
    return {
        "encoder": plan.encoder.name,
        "networks": plan.encoder.networks,
        "features": plan.encoder.features,
        "stack": plan.config.settings.stack,
        "frame": plan.env.frame_shape,
        "crop": plan.env.crop_shape,
    }


@dataclass(frozen=True)
class SavedAgent:
    """The acting part of a generation."""

    timestep: int
    arrays: dict[str, NDArray[Any]]
    frozen: bool
    encoder: dict[str, Any]  # `encoder_identity`
    graph: bytes | None  # the frozen encoder, where the replay held latents
    skipped: tuple[str, ...]  # a line for each newer generation that is not sound


def read_agent(checkpoints: Path, prefixes: tuple[str, ...] = ("",)) -> SavedAgent:
    """The agent of the newest sound generation, of its arrays those whose names begin with one of `prefixes`.

    Raises BadInputError where there is none.
    """
    try:
        generation = durable.newest_generation(checkpoints)
        folder, files = generation.path, generation.manifest["files"]
        state = json.loads((folder / STATE).read_text())
        return SavedAgent(
            timestep=state["timestep"],
            frozen=state["frozen"],
            encoder=state["encoder"],
            arrays=durable.read_tensors(folder / AGENT, prefixes),
            graph=(folder / ENCODER).read_bytes() if ENCODER in files else None,
            skipped=tuple(f"skipped {path.name}: {reason}" for path, reason in generation.skipped),
        )
    except (
        durable.NoSoundGenerationError,
        durable.CorruptFileError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        raise BadInputError(
            f"{checkpoints}: no generation to read ({error}); a run writes one at the freeze and at its end"
        ) from error
