"""Reading an environment's state back: what a file says is believed only after it has been looked at."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.state import State, StateError

COUNT_MAX = 2**53


class StateReader:
    """The values and arrays of a `state` that the environment `env` gave. Everything raises StateError."""

    def __init__(self, state: State, env: str) -> None:
        if not isinstance(state.values, dict) or state.values.get("env") != env:
            raise StateError(f"the state is not one of environment {env!r}")
        self._state = state
        self._env = env

    def value(self, name: str) -> Any:
        """The value of that name, whatever it is."""
        if name not in self._state.values:
            raise self.refusal(f"no {name}")
        return self._state.values[name]

    def flag(self, name: str) -> bool:
        """A truth value."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.refusal(f"{name} is not true or false")
        return value

    def count(self, name: str, most: int = COUNT_MAX) -> int:
        """A whole number from 0 to `most`."""
        value = self.value(name)
        if type(value) is not int or not 0 <= value <= most:
            raise self.refusal(f"{name} is no number from 0 to {most}")
        return value

    def number(self, name: str) -> float:
        """A finite real number."""
        value = self.value(name)
        if type(value) is int and abs(value) <= COUNT_MAX:
            return float(value)
        if type(value) is not float or not math.isfinite(value):
            raise self.refusal(f"{name} is no finite number")
        return value

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of exactly that shape and dtype, finite where it is of floats."""
        array = self._state.arrays.get(name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.dtype(dtype):
            raise self.refusal(f"{name} is not {np.dtype(dtype)} {list(shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.refusal(f"{name} is not finite")
        return array

    def octets(self, name: str, most: int) -> bytes:
        """The bytes of a flat uint8 array, no more than `most`."""
        array = self._state.arrays.get(name)
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != np.uint8 or array.size > most:
            raise self.refusal(f"{name} is not at most {most} bytes")
        return array.tobytes()

    def refusal(self, reason: str) -> StateError:
        """What to raise where `reason` speaks against the state."""
        return StateError(f"the state of environment {self._env!r} does not fit: {reason}")
