"""What a part of a run needs in order to go on: plain values and named arrays, never a pickle.

Every stateful class gives a `State` and takes one back. Values are JSON, as in `numpy.random.Generator`'s own state;
arrays go to a tensor file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


class StateError(ValueError):
    """A state that is not one of this part: made by another kind, version or size of it."""


@dataclass(frozen=True)
class State:
    """Of one part. Arrays may be the part's own memory: they hold until the part changes."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a random stream as plain data."""
    return dict(rng.bit_generator.state)


def restore_generator(rng: np.random.Generator, state: Any) -> None:
    """Take on what `generator_state` gave. Raises StateError for anything else."""
    try:
        rng.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise StateError(f"not the state of a random stream: {error}") from error
