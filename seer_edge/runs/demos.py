"""Demonstrations: a file with the frames, actions and rewards of episodes that a person or a script played.

A row is one time step, as in the replay: frame, action, reward and flags. A truncated episode, and one that was cut
off, keeps its final frame in an additional row without an action.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs import Action, Continuous, Discrete, EnvSpec, Frame, Step
from seer_edge.errors import BadInputError
from seer_runtime import durable
from seer_runtime.durable.container import member_names, open_container, write_container
from seer_runtime.durable.tensors import TensorFile, tensor_pieces

FORMAT = "demonstrations 1"
MEMBER = "rows.safetensors"
BYTES_MAX = 2**40
TERMINATED, TRUNCATED, FINAL, BEGINS = 1, 2, 4, 8
"""Flags of a row. FINAL marks a final frame, BEGINS the first row of a scene."""
READ_ROWS, READ_BYTES = 256, 2**20
"""The most rows that are read at a time, and the most bytes of their frames."""


class DemoWriter:
    """Context manager: collects rows, and writes them to `path` with `write`.

    Frames wait in a file in the same folder, not in memory.

    Attributes:
        rows: how many there are.

    """

    def __init__(self, path: Path, spec: EnvSpec, gray_levels: int | None) -> None:
        """Raises OSError if the folder cannot be written."""
        self._path, self._spec, self._gray_levels = path, spec, gray_levels
        self._frames_path = path.with_name(f".{path.name}.frames")
        self._frames = self._frames_path.open("wb")
        self._actions: list[Action] = []
        self._rewards: list[float] = []
        self._flags: list[int] = []
        self._nothing: Action = 0 if isinstance(spec.actions, Discrete) else np.zeros(spec.actions.outputs, np.float32)
        self._begins = BEGINS
        self._newest: Frame  # set by the first step

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._flags)

    def begin(self, *, new_scene: bool) -> None:
        """Begin an episode; without `new_scene` the stack continues."""
        self._begins = BEGINS if new_scene else 0

    def add(self, frame: Frame, action: Action, step: Step) -> None:
        """Add the frame that was acted on, the action and the step that followed."""
        flags = TERMINATED * step.terminated | TRUNCATED * step.truncated
        self._append(frame, action, step.reward, flags)
        self._newest = step.frame
        if step.truncated:
            self._append(step.frame, self._nothing, 0.0, FINAL)

    def cut(self) -> None:
        """Cut an unfinished episode, with its newest frame."""
        if self._flags and not self._flags[-1] & (TERMINATED | FINAL):
            self._flags[-1] |= TRUNCATED
            self._append(self._newest, self._nothing, 0.0, FINAL)

    def _append(self, frame: Frame, action: Action, reward: float, flags: int) -> None:
        self._frames.write(np.ascontiguousarray(frame).tobytes())
        self._actions.append(action)
        self._rewards.append(reward)
        self._flags.append(flags | self._begins)
        self._begins = 0

    def write(self) -> None:
        """Write the file. Raises OSError."""
        self._frames.flush()
        shape = (self.rows, *self._spec.frame_shape)
        frames = np.memmap(self._frames_path, np.uint8, "r", shape=shape)
        dtype = np.int32 if isinstance(self._spec.actions, Discrete) else np.float32
        arrays: dict[str, NDArray[Any]] = {
            "frames": frames,
            "actions": np.asarray(self._actions, dtype),
            "rewards": np.asarray(self._rewards, np.float32),
            "flags": np.asarray(self._flags, np.uint8),
        }
        write_container(self._path, _about(self._spec, self._gray_levels), {MEMBER: [*tensor_pieces(MEMBER, arrays)]})

    def __enter__(self) -> "DemoWriter":
        return self

    def __exit__(self, *unused: object) -> None:
        """Remove the file of frames."""
        try:
            self._frames.close()
        finally:
            self._frames_path.unlink()


def _about(spec: EnvSpec, gray_levels: int | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "environment": spec.id,
        "frame_shape": list(spec.frame_shape),
        "actions": {"kind": spec.actions.kind, "count": spec.actions.outputs},
        "gray_levels": gray_levels,
    }


@dataclass(frozen=True, eq=False)
class DemoRow:
    """One row of a file."""

    frame: Frame
    action: Action
    reward: float
    terminated: bool
    truncated: bool
    final: bool
    begins: bool


class Demos:
    """An open file of demonstrations."""

    def __init__(self, path: Path, about: dict[str, Any], tensors: TensorFile) -> None:
        self._path, self._tensors = path, tensors
        self.about = about

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._tensors.shapes["flags"][0]

    def check(self, spec: EnvSpec, gray_levels: int | None) -> None:
        """Raise BadInputError if the rows are not those of an environment with this `spec`."""
        wanted = _about(spec, gray_levels)
        for name in ("frame_shape", "actions", "gray_levels"):
            if self.about.get(name) != wanted[name]:
                what, found = name.replace("_", " "), self.about.get(name)
                raise BadInputError(
                    f"--demos {self._path}: {what} {found}, but {spec.id} has {wanted[name]}; "
                    "record again with the same flags"
                )

    def __iter__(self) -> Iterator[DemoRow]:
        """Read all rows, a few at a time."""
        most = max(1, min(READ_ROWS, READ_BYTES // math.prod(self._tensors.shapes["frames"][1:])))
        for first in range(0, self.rows, most):
            count = min(most, self.rows - first)
            read = {name: self._read(name, first, count) for name in ("frames", "actions", "rewards", "flags")}
            for frame, action, reward, flags in zip(*read.values(), strict=True):
                yield DemoRow(
                    frame,
                    int(action) if action.ndim == 0 else action,
                    float(reward),
                    bool(flags & TERMINATED),
                    bool(flags & TRUNCATED),
                    bool(flags & FINAL),
                    bool(flags & BEGINS),
                )

    def _read(self, name: str, first: int, count: int) -> NDArray[Any]:
        rows = np.empty((count, *self._tensors.shapes[name][1:]), self._tensors.dtypes[name])
        self._tensors.read_rows_into(name, first, rows)
        return rows


def are_demos(path: Path) -> bool:
    """Return whether the file at `path` holds demonstrations. Only its beginning is read. Raises OSError."""
    try:
        return MEMBER in member_names(path)
    except durable.CorruptFileError:
        return False


@contextmanager
def open_demos(path: Path, spec: EnvSpec, gray_levels: int | None) -> Iterator[Demos]:
    """Context manager: open a file of demonstrations for an environment with this `spec`.

    Raises BadInputError for another file, for rows of another environment, and for damage.
    """
    try:
        with open_container(path, {MEMBER: BYTES_MAX}) as container:
            if container.about.get("format") != FORMAT:
                raise durable.CorruptFileError(path, "not a file of demonstrations")
            demos = Demos(path, container.about, container.tensors(MEMBER))
            demos.check(spec, gray_levels)
            _check_rows(path, demos, spec)
            yield demos
    except durable.CorruptFileError as error:
        raise BadInputError(f"--demos {error}; give a file that `seer-edge record` wrote") from error
    except OSError as error:
        raise BadInputError(
            f"--demos {path}: cannot be read ({error.strerror}); give a file that `seer-edge record` wrote"
        ) from error


def _check_rows(path: Path, demos: Demos, spec: EnvSpec) -> None:
    """Raise CorruptFileError if an array does not fit, or a value cannot be learned from."""
    tensors, rows = demos._tensors, demos._tensors.shapes.get("flags", (0,))[0]
    action = () if isinstance(spec.actions, Discrete) else (spec.actions.outputs,)
    wanted = {
        "frames": ((rows, *spec.frame_shape), np.uint8),
        "actions": ((rows, *action), np.float32 if isinstance(spec.actions, Continuous) else np.int32),
        "rewards": ((rows,), np.float32),
        "flags": ((rows,), np.uint8),
    }
    found = {name: (tensors.shapes[name], tensors.dtypes[name]) for name in tensors.names}
    if found != {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in wanted.items()} or not rows:
        raise durable.CorruptFileError(path, "its arrays are not those of demonstrations")
    if not _is_sequence(demos._read("flags", 0, rows)):
        raise durable.CorruptFileError(path, "its rows are not a sequence of episodes")
    for first in range(0, rows, READ_ROWS):
        count = min(READ_ROWS, rows - first)
        actions, rewards = (demos._read(name, first, count) for name in ("actions", "rewards"))
        if not (np.isfinite(rewards).all() and np.isfinite(actions).all() and spec.actions.holds(actions)):
            raise durable.CorruptFileError(path, "it holds a reward or an action that is not allowed")


def _is_sequence(flags: NDArray[np.uint8]) -> bool:
    """Whether rows with these flags are whole episodes, each of which ends as terminated or with a final frame."""
    bits = (TERMINATED, TRUNCATED, FINAL, BEGINS)
    terminated, truncated, final, begins = ((flags & bit).astype(bool) for bit in bits)
    known = not (flags & ~np.uint8(sum(bits))).any() and not (terminated.astype(int) + truncated + final > 1).any()
    follows = (
        (final[1:] == truncated[:-1]).all()
        and not (begins[1:] & ~(terminated | final)[:-1]).any()
        and not (final[:-1] & ~begins[1:]).any()
    )
    ended = terminated[-1] or final[-1]
    return bool(known and follows and begins[0] and not final[0] and ended)
