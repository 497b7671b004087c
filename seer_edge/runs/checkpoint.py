"""What a generation holds: all that a run needs to go on as if it had never been stopped. No torch.

| file | |
|---|---|
| `config.json` | every resolved setting; the run folder's own copy is for people |
| `agent.safetensors` | networks, targets, optimizers, the agent's random stream |
| `replay.safetensors` | frames or latents as they stand in the arena, their columns and priorities |
| `session.safetensors` | the environment's state if it has one, the frame stack, the latents to act on, a batch |
| `encoder.onnx` | the frozen encoder, where the replay holds latents |
| `state.json` | counters and the other random streams; equal runs write equal bytes |
| `run.json` | what the run tells of itself: metrics, clocks, the freeze, the last evaluation |
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import FLOAT_BYTES, BytePlan
from seer_edge.errors import BadInputError, RunStoppedError
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.onnx.check import FILE_BYTES_MAX, check_graph
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.replay import Replay
from seer_runtime.system.state import State, StateError

if TYPE_CHECKING:
    from seer_edge.training.session import Session  # which imports torch

AGENT, REPLAY, SESSION = "agent.safetensors", "replay.safetensors", "session.safetensors"
CONFIG, ENCODER, RUN, STATE = "config.json", "encoder.onnx", "run.json", "state.json"

_ALWAYS = {CONFIG, AGENT, REPLAY, SESSION, STATE, RUN}
_READ_TRIES = 3


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, what a generation at `path` was read for. A stranger can have made one whose every hash is right.

    Raises BadInputError for whatever its content does to the code inside.
    """
    try:
        yield
    except (durable.CorruptFileError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: not a checkpoint of this version ({one_line(error)})") from error
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: not all there any more ({one_line(error)})") from error


def save(session: "Session", checkpoints: Path, run: Mapping[str, Any] | None = None) -> Path:
    """Publish a generation of the session as it stands, with what the `run` tells of itself.

    Raises RunStoppedError where a weight is not finite: nothing could be learned from there. Raises OSError where it
    cannot be written.
    """
    diverged = _not_finite(session.agent.state())
    if diverged is not None:
        raise RunStoppedError(f"{diverged} at step {session.timestep} is not finite: training diverged")
    parts = session.parts()
    values = {name: None if part is None else part.values for name, part in parts.items()}
    state = {
        "timestep": session.timestep,
        "frozen": session.agent.frozen,
        "encoder": encoder_identity(session.plan),
        **values,
    }

    def write(folder: Path) -> None:
        durable.write_json(folder / CONFIG, session.config.to_json())
        for file, names in {
            AGENT: ("agent",),
            REPLAY: ("replay",),
            SESSION: ("environment", "perception", "waiting"),
        }.items():
            durable.write_tensors(folder / file, _tensors(parts, names))
        if session.graph is not None:
            durable.write_atomic(folder / ENCODER, session.graph)
        durable.write_json(folder / STATE, state)
        durable.write_json(folder / RUN, dict(run or {}))

    return durable.publish_checkpoint(checkpoints, session.timestep, write)


def _tensors(parts: Mapping[str, State | None], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of the parts `names`, under the part's name where there are several."""
    tensors: dict[str, NDArray[Any]] = {}
    for name in names:
        part, prefix = parts[name], f"{name}." if len(names) > 1 else ""
        if part is not None:
            tensors |= {prefix + key: array for key, array in part.arrays.items()}
    return tensors


def _not_finite(agent: State) -> str | None:
    """The name of an array that holds NaN or an infinity."""
    for name, array in agent.arrays.items():
        # A sum, because numpy.isfinite would take a byte more for every element.
        with np.errstate(all="ignore"):
            if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64)):
                return name
    return None


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
class Saved:
    """A generation that is sound, read part by part."""

    generation: durable.Checkpoint
    state: dict[str, Any]
    config: TrainConfig

    @property
    def timestep(self) -> int:
        """Its step."""
        return self.generation.manifest["timestep"]

    @property
    def frozen(self) -> bool:
        """Whether the encoder was frozen."""
        return bool(self.state.get("frozen"))

    @property
    def skipped(self) -> tuple[str, ...]:
        """A line for each newer generation that is not sound."""
        return tuple(f"skipped {path.name}: {reason}" for path, reason in self.generation.skipped)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.generation.path

    def agent(self, prefixes: tuple[str, ...] = ("",)) -> State:
        """The agent's state, of its arrays those whose names begin with one of `prefixes`.

        Raises StateError where one of them is not finite.
        """
        agent = State(self._values("agent"), durable.read_tensors(self.path / AGENT, prefixes))
        diverged = _not_finite(agent)
        if diverged is not None:
            raise StateError(f"{diverged} is not finite")
        return agent

    def part(self, name: str) -> State | None:
        """The state of the `environment`, of the `perception` or of the batch `waiting`; None where it had none."""
        if self.state.get(name) is None:
            return None
        prefix = f"{name}."
        arrays = durable.read_tensors(self.path / SESSION, (prefix,))
        return State(self._values(name), {key.removeprefix(prefix): array for key, array in arrays.items()})

    def restore_replay(self, replay: Replay) -> int:
        """Fill `replay` straight from the disk; returns how many of the oldest rows had no room."""
        with durable.open_tensors(self.path / REPLAY) as tensors:
            return replay.restore(self._values("replay"), tensors)

    def check_fits(self, plan: BytePlan) -> None:
        """Raise BadInputError where agent or encoder have other sizes than the plan's, before anything is built."""
        with reading(self.path):
            agent = self.generation.manifest["files"].get(AGENT)
            if agent is None or agent["size_bytes"] < plan.networks.parameters * FLOAT_BYTES:
                raise StateError(f"{AGENT} does not hold the {plan.networks.parameters:,} weights of {CONFIG}")
            if (self.graph is not None) != (self.frozen and plan.latent_replay):
                raise StateError(f"{ENCODER} is there exactly where a frozen encoder fills the replay")
            if self.graph is not None:
                found, stack = check_graph(self.graph, max_batch=MAX_BATCH), plan.config.settings.stack
                channels = stack * math.prod(plan.env.frame_shape[:-2])
                wanted = (channels, *plan.env.crop_shape), plan.encoder.latent_shape
                if (found.observation_shape, found.latent_shape) != wanted:
                    raise StateError(
                        f"{ENCODER} turns {found.observation_shape} into {found.latent_shape}, not {wanted}"
                    )

    @cached_property
    def graph(self) -> bytes | None:
        """The frozen encoder, where the replay held latents."""
        if ENCODER not in self.generation.manifest["files"]:
            return None
        return self.generation.read_bytes(ENCODER, FILE_BYTES_MAX)

    def run(self) -> dict[str, Any]:
        """What the run told of itself. Raises BadInputError."""
        with reading(self.path):
            return dict(self.generation.read_json(RUN))

    @property
    def is_finished(self) -> bool:
        """Whether the run had made its last step and its last evaluation."""
        return self.run().get("evaluated_at") == self.timestep == self.config.total_timesteps

    def _values(self, name: str) -> dict[str, Any]:
        return dict(self.state[name])


def newest(checkpoints: Path) -> Saved:
    """The newest sound generation. Raises BadInputError where there is none that this version reads."""
    for attempt in range(_READ_TRIES):
        try:
            generation = durable.newest_checkpoint(checkpoints)
            state = generation.read_json(STATE)
            config = TrainConfig.from_json(generation.read_json(CONFIG))
        except (durable.NoSoundCheckpointError, durable.CorruptFileError, OSError) as error:
            # A run that goes on meanwhile may remove what was the newest when it was looked for.
            if attempt + 1 < _READ_TRIES and not isinstance(error, durable.NoSoundCheckpointError):
                continue
            raise BadInputError(_without_checkpoint(checkpoints.parent, error)) from error
        except BadInputError as error:
            raise BadInputError(f"{generation.path}: {error}") from error
        missing = _ALWAYS - set(generation.manifest["files"])
        if missing or not isinstance(state, dict):
            lack = f"without {', '.join(sorted(missing))}" if missing else f"{STATE} is no object"
            raise BadInputError(f"{generation.path}: not a checkpoint of this version ({lack})")
        return Saved(generation, state, config)
    raise AssertionError("the last attempt returns or raises")


def _without_checkpoint(run: Path, error: Exception) -> str:
    """What is wrong, and all that is left to do about it."""
    reason = error.reason if isinstance(error, durable.NoSoundCheckpointError) else f"no sound checkpoint ({error})"
    flags = f"; its flags are in {run / 'config.json'}" if (run / "config.json").is_file() else ""
    return f"{run}: {reason}; nothing of this run can be used, begin it anew with train{flags}"


def newest_agent(checkpoints: Path) -> tuple[Saved, State]:
    """The newest sound generation with its agent and encoder read: a run that goes on may remove it at any moment.

    Raises BadInputError where there is none that this version reads.
    """
    for _ in range(_READ_TRIES):
        saved = newest(checkpoints)
        with reading(saved.path), contextlib.suppress(FileNotFoundError):
            _ = saved.graph  # kept from here on
            return saved, saved.agent()
    raise BadInputError(f"{checkpoints.parent}: its checkpoints are removed while they are read; try once more")
