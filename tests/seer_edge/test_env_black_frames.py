"""The warning about environments whose frames turn black."""

from typing import Any

import numpy as np
import pytest

from seer_edge.envs import Discrete, EnvSpec, Step
from seer_edge.envs.black_frames import PATIENCE_STEPS
from seer_edge.envs.guarded import Guarded
from tests.seer_edge.test_env_guarded import Odd, step

pytestmark = pytest.mark.usefixtures("release_generators")

BLACK = np.zeros((4, 4), np.uint8)


class Darkening(Odd):
    """An environment whose frames are black from the given steps on, up to the given steps."""

    spec = EnvSpec("Dark-v0", "Dark", (4, 4), (4, 4), Discrete(3))

    def __init__(self, *black: tuple[int, int]) -> None:
        super().__init__(np.eye(4, dtype=np.uint8))
        self.black, self.steps = black, 0

    def step(self, action: int) -> Step:
        self.steps += 1
        dark = any(start <= self.steps < end for start, end in self.black)
        return step(BLACK if dark else np.roll(np.eye(4, dtype=np.uint8), self.steps, axis=1))


def warned(env: Odd, steps: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    guarded = Guarded(env, first_step=100)
    guarded.reset()
    for _ in range(steps):
        guarded.step(0)
    return [record.message for record in caplog.records]


def test_frames_that_turn_black_are_reported_once_with_the_step(caplog: pytest.LogCaptureFixture) -> None:
    [message] = warned(Darkening((21, 10**6)), 3 * PATIENCE_STEPS, caplog)
    assert "every frame since step 121 is black" in message


@pytest.mark.parametrize("black", [(), ((5, 5 + PATIENCE_STEPS), (60, 60 + PATIENCE_STEPS)), ((7, 40),)])
def test_short_darkness_is_not_reported(black: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert warned(Darkening(*black), 3 * PATIENCE_STEPS, caplog) == []


def test_an_environment_that_was_always_black_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    env = Darkening((0, 10**6))
    env.frame = BLACK
    assert warned(env, 3 * PATIENCE_STEPS, caplog) == []
