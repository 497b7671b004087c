"""Read the saved state of an environment, checking the type, shape and range of each value."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.system.state import State, StateError

COUNT_MAX = 2**53


class StateReader:
    """The values and arrays in a `state` of the environment `env`. All methods raise StateError for invalid content."""

    def __init__(self, state: State, env: str) -> None:
        if not isinstance(state.values, dict) or state.values.get("env") != env:
            raise StateError(f"the state is not of environment {env!r}")
        self._state = state
        self._env = env

    def value(self, name: str) -> Any:
        """Return the value `name`, of any type."""
        if name not in self._state.values:
            raise self.invalid(f"{name} is missing")
        return self._state.values[name]

    def flag(self, name: str) -> bool:
        """Return the bool `name`."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.invalid(f"{name} is not true or false")
        return value

    def count(self, name: str, most: int = COUNT_MAX) -> int:
        """Return the int `name`, from 0 to `most`."""
        value = self.value(name)
        if type(value) is not int or not 0 <= value <= most:
            raise self.invalid(f"{name} is not an integer from 0 to {most}")
        return value

    def number(self, name: str) -> float:
        """Return the finite number `name` as a float."""
        value = self.value(name)
        if type(value) is int and abs(value) <= COUNT_MAX:
            return float(value)
        if type(value) is not float or not math.isfinite(value):
            raise self.invalid(f"{name} is not a finite number")
        return value

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return the array `name`, which must have this shape and dtype, and be finite if it holds floats."""
        array = self._state.arrays.get(name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.dtype(dtype):
            raise self.invalid(f"{name} is not {np.dtype(dtype)} {list(shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.invalid(f"{name} is not finite")
        return array

    def has_array(self, name: str) -> bool:
        """Return whether there is an array `name`. Earlier versions may have saved fewer."""
        return name in self._state.arrays

    def raw_bytes(self, name: str, most: int) -> bytes:
        """Return the bytes of the one-dimensional uint8 array `name`, at most `most` of them."""
        array = self._state.arrays.get(name)
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != np.uint8 or array.size > most:
            raise self.invalid(f"{name} is not a uint8 array of at most {most} bytes")
        return array.tobytes()

    def invalid(self, reason: str) -> StateError:
        """Return the StateError to raise for `reason`."""
        return StateError(f"the state of environment {self._env!r} is invalid: {reason}")
