"""The saved state of one component of a run: JSON values and named arrays, never a pickle.

Every stateful class returns a `State` from `state()` and accepts it in `restore()`. A checkpoint stores the values as
JSON and the arrays in a tensor file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


class StateError(ValueError):
    """Raised for a state that does not fit the component: its kind, version or size differs."""


@dataclass(frozen=True)
class State:
    """The state of one component: JSON values, and arrays by name.

    The arrays may be views of the component's own memory, so they are valid only until the component changes.
    """

    values: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of the random generator `rng` as JSON values."""
    return dict(rng.bit_generator.state)


def restore_generator(rng: np.random.Generator, state: Any) -> None:
    """Set `rng` to a state from `generator_state`. Raises StateError for any other value."""
    try:
        rng.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise StateError(f"not the state of a random generator: {error}") from error
