"""Helpers of the tests of environment states: save, restore and compare two environments."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.envs import Environment, Step
from seer_runtime.durable import read_tensors, write_tensors
from seer_runtime.system.state import State


def through_files(state: State | None, folder: Path) -> State:
    """Write `state` to files and read it back, as a checkpoint does."""
    assert state is not None
    values = json.loads(json.dumps(state.values, allow_nan=False))
    write_tensors(folder / "env.safetensors", state.arrays)
    return State(values, read_tensors(folder / "env.safetensors"))


def play(env: Environment, actions: np.random.Generator, steps: int) -> list[Step]:
    """Take `steps` random actions, with a reset after each end of an episode; return the steps."""
    taken = []
    for _ in range(steps):
        taken.append(env.step(env.spec.actions.sample(actions)))
        if taken[-1].terminated or taken[-1].truncated:
            env.reset()
    return taken


def assert_continue_alike(env: Environment, twin: Environment, steps: int, seed: int = 0) -> list[Step]:
    """Step both environments with the same random actions and assert that all their outputs are equal."""
    actions, taken = np.random.default_rng(seed), []
    for _ in range(steps):
        action = env.spec.actions.sample(actions)
        step, other = env.step(action), twin.step(action)
        np.testing.assert_array_equal(step.frame, other.frame)
        assert _but_the_frame(step) == _but_the_frame(other)
        if step.terminated or step.truncated:
            np.testing.assert_array_equal(env.reset(), twin.reset())
        taken.append(step)
    return taken


def changed(state: State, name: str, value: Any) -> State:
    """Return `state` with one value or array replaced, or removed where `value` is None."""
    values, arrays = dict(state.values), dict(state.arrays)
    place = values if name in values else arrays
    place[name] = value
    if value is None:
        del place[name]
    return State(values, arrays)


def _but_the_frame(step: Step) -> tuple[Any, ...]:
    return step.reward, step.terminated, step.truncated, step.episode
