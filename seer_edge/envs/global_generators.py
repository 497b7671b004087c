"""The global random generators of Python and numpy, of which each environment has its own state."""

import random
from typing import Any

import numpy as np

from seer_runtime.system.state import State, StateError

_KEY = "global_generators"
_PYTHON, _NUMPY = f"{_KEY}.python", f"{_KEY}.numpy"
_PYTHON_WORDS, _NUMPY_WORDS = 625, 624


class GlobalGenerators:
    """The states of `random` and `numpy.random` that one environment sees, seeded with `seed`.

    Many environments draw from these generators. Every environment needs its own states, or an evaluation would change
    the episodes of the training environment.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: tuple[Any, Any] | None = None  # while another environment or the program uses the generators
        self._seeded: tuple[Any, Any] | None = None

    def load(self) -> None:
        """Make the generators continue where this environment left them."""
        if self._states is not None:
            _set(self._states)
            return
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002
        self._seeded = _get()

    def save(self) -> None:
        """Store the states of the generators before another environment uses them."""
        self._states = _get()

    def add_to(self, state: State) -> State:
        """Return `state` with the states of the generators, or unchanged if the environment never drew from them.

        The generators must be loaded.
        """
        states = _get()
        if self._seeded is not None and _equal(states, self._seeded):
            return state
        (version, words, gauss), numpy_state = states
        values = {
            "version": version,
            "gauss": gauss,
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "numpy_gauss": float(numpy_state["gauss"]),
        }
        arrays = {_PYTHON: np.array(words, np.uint32), _NUMPY: np.array(numpy_state["state"]["key"], np.uint32)}
        return State({**state.values, _KEY: values}, {**state.arrays, **arrays})

    def take_from(self, state: State) -> State:
        """Set the generators, which must be loaded, from `state`; return `state` without them.

        Raises StateError for states that are not those of generators.
        """
        if _KEY not in state.values:
            return state
        try:
            values, words, key = state.values[_KEY], state.arrays[_PYTHON], state.arrays[_NUMPY]
            if (words.shape, key.shape) != ((_PYTHON_WORDS,), (_NUMPY_WORDS,)):
                raise ValueError("their arrays have another size")
            numpy_state = ("MT19937", key, values["position"], values["has_gauss"], values["numpy_gauss"])
            np.random.RandomState().set_state(numpy_state)  # raises before anything is changed
            random.setstate((values["version"], tuple(map(int, words)), values["gauss"]))
            np.random.set_state(numpy_state)  # noqa: NPY002
        except (TypeError, ValueError, LookupError, OverflowError, AttributeError) as error:
            raise StateError(f"invalid states of the global random generators: {error}") from error
        arrays = {name: array for name, array in state.arrays.items() if name not in (_PYTHON, _NUMPY)}
        return State({name: value for name, value in state.values.items() if name != _KEY}, arrays)


def _get() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002


def _set(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def _equal(first: tuple[Any, Any], second: tuple[Any, Any]) -> bool:
    (python, a), (other, b) = first, second
    same = python == other and bool((a["state"]["key"] == b["state"]["key"]).all())
    return same and (a["state"]["pos"], a["has_gauss"], a["gauss"]) == (b["state"]["pos"], b["has_gauss"], b["gauss"])
