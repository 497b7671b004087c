"""Checkpoints: everything that a run needs to continue as if it had never stopped. Imports no torch.

| file | content |
|---|---|
| `config.json` | every resolved setting |
| `agent.safetensors` | networks, target networks, optimizer moments, the agent's random stream |
| `replay.safetensors` | frames or latents as the arena holds them, their columns and priorities |
| `session.safetensors` | environment state if there is one, frame stack, current latents, pending batch |
| `encoder.onnx` | the frozen encoder, if the replay holds latents |
| `state.json` | counters and the other random streams; equal runs write equal bytes |
| `run.json` | what the run recorded: metrics, clocks, the freeze, the last evaluation |
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.config.plan_replay import FLOAT_BYTES
from seer_edge.errors import BadInputError, RunStoppedError
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.onnx.check import FILE_BYTES_MAX, check_graph
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.replay import Replay
from seer_runtime.system.state import State, StateError

AGENT, REPLAY, SESSION = "agent.safetensors", "replay.safetensors", "session.safetensors"
CONFIG, ENCODER, RUN, STATE = "config.json", "encoder.onnx", "run.json", "state.json"

_ENVIRONMENT, _PERCEPTION, PENDING, WATCH = "environment", "perception", "waiting", "freeze_watch"
"""Names in `state.json`, and prefixes of arrays in `session.safetensors`."""

_ACTING = {CONFIG, AGENT, STATE, RUN}
_REQUIRED = {*_ACTING, REPLAY, SESSION}
_READ_ATTEMPTS = 3


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint stores of a session. Arrays may be the session's own memory: save before it changes."""

    timestep: int
    frozen: bool  # whether the encoder is frozen
    config: TrainConfig
    encoder: dict[str, Any]  # see `encoder_identity`
    graph: bytes | None  # ONNX, of the frozen encoder; None while the replay holds frames
    agent: State
    replay: State
    perception: State
    environment: State | None  # None if the environment cannot save its state
    pending: State | None  # the batch that no update has learned from; None if there is none
    exploration: dict[str, Any]  # the random stream of random actions
    watch: State | None = None  # of --freeze-at auto; None without it and after the freeze

    @property
    def _parts(self) -> dict[str, State | None]:
        """The session's parts, by their names on the disk."""
        parts = {_ENVIRONMENT: self.environment, _PERCEPTION: self.perception, PENDING: self.pending}
        return parts if self.watch is None else {**parts, WATCH: self.watch}

    def values(self) -> dict[str, Any]:
        """Return the content of `state.json`."""
        values = {name: None if part is None else part.values for name, part in self._parts.items()}
        return {
            "timestep": self.timestep,
            "frozen": self.frozen,
            "encoder": self.encoder,
            PENDING: values[PENDING],
            "agent": self.agent.values,
            "replay": self.replay.values,
            _PERCEPTION: values[_PERCEPTION],
            _ENVIRONMENT: values[_ENVIRONMENT],
            "exploration": self.exploration,
            **({WATCH: values[WATCH]} if self.watch is not None else {}),
        }

    def session_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content of `session.safetensors`: the arrays of each part under its name."""
        return {
            f"{name}.{key}": array
            for name, part in self._parts.items()
            if part is not None
            for key, array in part.arrays.items()
        }


def save(
    snapshot: Snapshot, checkpoints: Path, run: Mapping[str, Any] | None = None, *, acting_only: bool = False
) -> Path:
    """Publish a checkpoint in the folder `checkpoints`; `run` is the content of `run.json`. Return its folder.

    With `acting_only` it has no replay and no session. `eval` and `export` can use it, `resume` cannot. It replaces all
    others, also later ones, which a run leaves that resumes from an earlier step.

    Raises RunStoppedError if a weight is not finite, because such a run cannot learn any more. Raises OSError if the
    disk cannot be written.
    """
    diverged = _find_not_finite(snapshot.agent)
    if diverged is not None:
        raise RunStoppedError(f"{diverged} at step {snapshot.timestep} is not finite: training diverged")

    def write(folder: Path) -> None:
        durable.write_json(folder / CONFIG, snapshot.config.to_json())
        durable.write_tensors(folder / AGENT, dict(snapshot.agent.arrays))
        if not acting_only:
            durable.write_tensors(folder / REPLAY, dict(snapshot.replay.arrays))
            durable.write_tensors(folder / SESSION, snapshot.session_arrays())
        if snapshot.graph is not None:
            durable.write_atomic(folder / ENCODER, snapshot.graph)
        durable.write_json(folder / STATE, snapshot.values())
        durable.write_json(folder / RUN, dict(run or {}))

    if acting_only:
        path = durable.publish_checkpoint(checkpoints, snapshot.timestep, write, keep=1)
        for later in durable.checkpoint_steps(checkpoints):
            if later > snapshot.timestep:
                durable.remove(checkpoints / durable.checkpoint_name(later))
        return path
    always = snapshot.config.keep_checkpoint
    return durable.publish_checkpoint(checkpoints, snapshot.timestep, write, always=always)


def _find_not_finite(agent: State) -> str | None:
    """Return the name of an array that holds NaN or an infinity, or None."""
    for name, array in agent.arrays.items():
        # Sum the array: numpy.isfinite would allocate one byte per element.
        with np.errstate(all="ignore"):
            if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64)):
                return name
    return None


def encoder_identity(plan: BytePlan) -> dict[str, Any]:
    """Return what an encoder was made for. A run can import an encoder whose identity equals its own (Section 5.4)."""
    return {
        "encoder": plan.encoder.name,
        "networks": plan.encoder.networks,
        "features": plan.encoder.features,
        "stack": plan.config.settings.stack,
        "frame": plan.env.frame_shape,
        "crop": plan.env.crop_shape,
    }


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report malformed content of the checkpoint at `path` as BadInputError.

    Checksums do not make a checkpoint trusted input: whoever writes it can also write matching checksums. Whatever
    its content raises in the code inside is therefore bad input.
    """
    try:
        yield
    except (durable.CorruptFileError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: not a checkpoint of this version ({one_line(error)})") from error
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: a file is missing ({one_line(error)})") from error


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose checksums match, read part by part."""

    stored: durable.Checkpoint
    state: dict[str, Any]  # `state.json`
    config: TrainConfig

    @property
    def timestep(self) -> int:
        """The step that it was saved at."""
        return self.stored.manifest["timestep"]

    @property
    def frozen(self) -> bool:
        """Whether the encoder was frozen."""
        return bool(self.state.get("frozen"))

    @property
    def freeze_step(self) -> int | None:
        """The agent step at which the run froze its encoder; None if it did not, or imported a frozen one."""
        with reading(self.path):
            freeze = self.run()["outcome"]["freeze"]
            return None if freeze is None else int(freeze["timestep"])

    @property
    def skipped(self) -> tuple[str, ...]:
        """One line for each newer checkpoint that is damaged."""
        return tuple(f"skipped {path.name}: {reason}" for path, reason in self.stored.skipped)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.stored.path

    @property
    def has_replay(self) -> bool:
        """Whether it has a replay, and a run can resume from it."""
        return REPLAY in self.stored.manifest["files"]

    def is_complete(self, config: TrainConfig) -> bool:
        """Whether nothing is left to do under `config`. Raises BadInputError for a malformed `run.json`."""
        with reading(self.path):
            run = self.run()
            returns = run["outcome"]["evaluation"]
            mean = float(np.mean(returns)) if returns else None
            return config.is_complete(self.timestep, int(run["evaluated_at"]), mean)

    @cached_property
    def graph(self) -> bytes | None:
        """The frozen encoder as ONNX, or None if the replay held frames."""
        if ENCODER not in self.stored.manifest["files"]:
            return None
        return self.stored.read_bytes(ENCODER, FILE_BYTES_MAX)

    def agent(self, prefixes: tuple[str, ...] = ("",)) -> State:
        """Read the agent's state; only the arrays whose names start with one of `prefixes`.

        Raises StateError if one of them is not finite.
        """
        agent = State(self._values("agent"), durable.read_tensors(self.path / AGENT, prefixes))
        diverged = _find_not_finite(agent)
        if diverged is not None:
            raise StateError(f"{diverged} is not finite")
        return agent

    def perception(self) -> State:
        """Read the state of the perception. Raises StateError if the checkpoint has none."""
        state = self._session_part(_PERCEPTION)
        if state is None:
            raise StateError("the state of the perception is missing")
        return state

    def environment(self) -> State | None:
        """Read the state of the environment, or None if the environment could not save one."""
        return self._session_part(_ENVIRONMENT)

    def pending(self) -> State | None:
        """Read the pending batch, or None if there was none."""
        return self._session_part(PENDING)

    def watch(self) -> State | None:
        """Read the comparisons of --freeze-at auto, or None if there were none."""
        return self._session_part(WATCH)

    def _session_part(self, name: str) -> State | None:
        if self.state.get(name) is None:
            return None
        prefix = f"{name}."
        arrays = durable.read_tensors(self.path / SESSION, (prefix,))
        return State(self._values(name), {key.removeprefix(prefix): array for key, array in arrays.items()})

    def restore_replay(self, replay: Replay) -> int:
        """Read the replay from the disk straight into `replay`; return how many of the oldest rows did not fit."""
        with durable.open_tensors(self.path / REPLAY) as tensors:
            return replay.restore(self._values("replay"), tensors)

    def run(self) -> dict[str, Any]:
        """Read `run.json`. Raises BadInputError."""
        with reading(self.path):
            return dict(self.stored.read_json(RUN))

    def check_fits(self, plan: BytePlan) -> None:
        """Raise BadInputError if agent or encoder have other sizes than in `plan`. Builds nothing."""
        with reading(self.path):
            agent = self.stored.manifest["files"].get(AGENT)
            if agent is None or agent["size_bytes"] < plan.networks.parameters * FLOAT_BYTES:
                raise StateError(f"{AGENT} is too small for the {plan.networks.parameters:,} weights of {CONFIG}")
            if (self.graph is not None) != (self.frozen and plan.latent_replay):
                expected = "missing" if self.graph is None else "unexpected"
                raise StateError(f"{ENCODER} is {expected}: it belongs to a replay of latents only")
            if self.graph is not None:
                found, stack = check_graph(self.graph, max_batch=MAX_BATCH), plan.config.settings.stack
                channels = stack * math.prod(plan.env.frame_shape[:-2])
                wanted = (channels, *plan.env.crop_shape), plan.encoder.latent_shape
                if (found.observation_shape, found.latent_shape) != wanted:
                    raise StateError(
                        f"{ENCODER} maps {found.observation_shape} to {found.latent_shape}, expected "
                        f"{wanted[0]} to {wanted[1]}"
                    )

    def _values(self, name: str) -> dict[str, Any]:
        return dict(self.state[name])


def newest(checkpoints: Path, *, acting_only: bool = False, at: int | None = None) -> Saved:
    """Return the newest undamaged checkpoint, or that of step `at`. Raises BadInputError if this version can read none.

    With `acting_only` it need not have what only `resume` needs.
    """
    for attempt in range(_READ_ATTEMPTS):
        try:
            stored = durable.newest_checkpoint(checkpoints, at)
            state = stored.read_json(STATE)
            config = TrainConfig.from_json(stored.read_json(CONFIG))
        except (durable.NoSoundCheckpointError, durable.CorruptFileError, OSError) as error:
            # A run that is still training may remove the checkpoint while it is read.
            if attempt + 1 < _READ_ATTEMPTS and not isinstance(error, durable.NoSoundCheckpointError):
                continue
            explained = (
                _explain_no_checkpoint(checkpoints.parent, error)
                if at is None
                else _explain_not_at(checkpoints, at, error)
            )
            raise BadInputError(explained) from error
        except BadInputError as error:
            raise BadInputError(f"{stored.path}: {error}") from error
        missing = (_ACTING if acting_only else _REQUIRED) - set(stored.manifest["files"])
        if missing or not isinstance(state, dict):
            reason = f"missing: {', '.join(sorted(missing))}" if missing else f"{STATE} is not a JSON object"
            raise BadInputError(f"{stored.path}: not a checkpoint of this version ({reason})")
        return Saved(stored, state, config)
    raise AssertionError("the last attempt returns or raises")


def _explain_no_checkpoint(run: Path, error: Exception) -> str:
    """Say why a run cannot continue, and what to do."""
    if isinstance(error, durable.CorruptFileError) and error.path.is_symlink():
        return f"{error.path}: is a symbolic link; move the folder that it points to back here, in place of the link"
    reason = error.reason if isinstance(error, durable.NoSoundCheckpointError) else f"no undamaged checkpoint ({error})"
    flags = f"; its flags are in {run / 'config.json'}" if (run / "config.json").is_file() else ""
    return f"{run}: {reason}; this run cannot continue, start a new one with train{flags}"


def _explain_not_at(checkpoints: Path, at: int, error: Exception) -> str:
    """Say why there is no checkpoint of step `at`, and what to do."""
    steps = durable.checkpoint_steps(checkpoints)
    if at in steps:
        return f"--at {at}: {checkpoints / durable.checkpoint_name(at)} is damaged ({error}); give another step"
    shown = ", ".join(f"{step}" for step in steps) or "none"
    return f"--at {at}: {checkpoints.parent} has no checkpoint of this step, only of {shown}; give one of these" + (
        f", or make the run again with --keep-checkpoint {at}" if at >= 0 else ""
    )


def newest_agent(checkpoints: Path, *, acting_only: bool = False) -> tuple[Saved, State]:
    """Return the newest undamaged checkpoint and its agent, with the encoder read into memory; see `newest`.

    A run that is still training may remove a checkpoint at any moment. Raises BadInputError if this version can read
    none.
    """
    for _ in range(_READ_ATTEMPTS):
        saved = newest(checkpoints, acting_only=acting_only)
        with reading(saved.path), contextlib.suppress(FileNotFoundError):
            _ = saved.graph  # cached from here on
            return saved, saved.agent()
    raise BadInputError(f"{checkpoints.parent}: the run removes its checkpoints while they are read; try again")
