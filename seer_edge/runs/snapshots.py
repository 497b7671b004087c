"""Snapshots of a run: the weights of its encoder and heads at some steps, for `seer-edge analyze`. Imports no torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.errors import BadInputError
from seer_runtime import durable

_NAME = re.compile(r"step_(\d{10,})\.safetensors")

Weights = Mapping[str, NDArray[Any]]
"""Weights and biases float32, by their names in the encoder's state, and those of heads by theirs in the agent's."""

Shapes = Mapping[str, tuple[int, ...]]


class Snapshots:
    """The folder `analysis` of a run, with one file for each snapshot: `step_0000012000.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Return the steps of all snapshots, ascending. Raises OSError."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match is not None)

    def path(self, step: int) -> Path:
        """Return the file of the snapshot at `step`."""
        return self.folder / f"{durable.checkpoint_name(step)}.safetensors"

    def write(self, step: int, weights: Weights) -> None:
        """Write the snapshot at `step`, atomically. Raises OSError."""
        durable.make_folder(self.folder)
        durable.write_tensors(self.path(step), weights)

    def drop_after(self, step: int) -> None:
        """Remove the snapshots after `step`. Raises OSError."""
        for later in self.steps():
            if later > step:
                durable.remove(self.path(later))

    def copy_to(self, other: "Snapshots", until: int) -> None:
        """Copy the snapshots up to step `until`. Raises OSError."""
        for step in self.steps():
            if step <= until:
                durable.make_folder(other.folder)
                durable.write_atomic(other.path(step), self.path(step).read_bytes())

    def read(self, step: int, encoder: Shapes, heads: Shapes) -> Weights:
        """Return the weights at `step`, which must have these names and shapes. Raises BadInputError.

        Snapshots of earlier versions have no `heads`.
        """
        path = self.path(step)
        try:
            weights = durable.read_tensors(path)
        except durable.CorruptFileError as error:
            raise BadInputError(f"{path}: damaged ({error.reason}); remove it") from error
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror}); remove it") from error
        found = {name: (array.dtype.name, *array.shape) for name, array in weights.items()}
        of_encoder, of_both = (
            {name: ("float32", *shape) for name, shape in shapes.items()} for shapes in (encoder, {**encoder, **heads})
        )
        if found not in (of_encoder, of_both):
            raise BadInputError(f"{path}: holds the weights of another network than the run's; remove it")
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise BadInputError(f"{path}: holds a weight that is not finite; remove it")
        return weights
