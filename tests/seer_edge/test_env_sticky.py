"""Sticky actions of Atari."""

from typing import Any

import ale_py
import numpy as np
import pytest

from seer_edge.envs import resolve
from seer_edge.envs.atari import Atari

pytestmark = pytest.mark.integration


def _alien(sticky: float) -> Atari:
    return Atari(resolve("Alien"), seed=1, sticky=sticky, noops_max=0, life_loss_ends=False)


class _Pressed:
    """An emulator that records the action of each frame."""

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self.pressed: list[Any] = []

    def act(self, action: Any) -> Any:
        self.pressed.append(action)
        return self._ale.act(action)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)


@pytest.mark.parametrize(("sticky", "steps"), [(0.0, 300), (0.25, 2_000)])
def test_each_frame_repeats_the_previous_action_with_the_sticky_probability(sticky: float, steps: int) -> None:
    env = _alien(sticky)
    env._emulator.ale = ale = _Pressed(env._emulator.ale)  # type: ignore[assignment]
    repeated = np.zeros(4)
    env.reset()
    held = ale_py.Action.NOOP
    for step in range(steps):
        pressed = env._actions[1 + step % 2]  # never the same twice
        ale.pressed.clear()
        if env.step(1 + step % 2).terminated:
            env.reset()
            held = ale_py.Action.NOOP
            continue
        assert set(ale.pressed) <= {held, pressed}
        repeated += [action != pressed for action in ale.pressed]
        held = ale.pressed[-1]
    # Frame i still has the previous step's action only if all frames up to it repeated.
    np.testing.assert_allclose(repeated / steps, [sticky, sticky**2, sticky**3, sticky**4], atol=0.03)


def test_a_new_game_starts_from_the_noop_action() -> None:
    env = _alien(1.0)
    env._emulator.ale = ale = _Pressed(env._emulator.ale)  # type: ignore[assignment]
    env.reset()
    env._held = env._actions[3]
    env.step(1)
    assert set(ale.pressed) == {env._actions[3]}
    env.reset()
    ale.pressed.clear()
    env.step(1)
    assert set(ale.pressed) == {ale_py.Action.NOOP}
