"""A small pixel game that random features do not solve: name the pattern hidden in noise.

Each frame is 42x42 noise with one of three faint 5x5 textures tiled over it; the action that names the texture pays 1,
any other 0. The textures have the same mean and energy, so only matched filters distinguish them.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

EPISODE_STEPS = 20
ACTIONS = 3
SIDE = 42
CONTRAST = 16
NOISE = 48


def textures() -> NDArray[np.int64]:
    """[ACTIONS, 5, 5] of -1 and 1, balanced and mutually uncorrelated as far as 25 cells allow."""
    cells = np.arange(25).reshape(5, 5)
    return np.stack([np.where(cells * k % 25 % 2 == 0, 1, -1) for k in (1, 2, 7)])


class PixelMatch(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Ends after 20 steps: even episodes terminate, odd ones are truncated, so that both ends are learned from."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def __init__(self) -> None:
        tiles = -(-SIDE // 5)
        self._signs = np.stack([np.tile(texture, (tiles, tiles))[:SIDE, :SIDE] for texture in textures()])
        self._episode = 0

    def _frame(self) -> NDArray[np.uint8]:
        self._wanted = int(self.np_random.integers(ACTIONS))
        noise = self.np_random.normal(128, NOISE, (SIDE, SIDE))
        frame = np.clip(noise + CONTRAST * self._signs[self._wanted], 0, 255)
        return frame.astype(np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._episode += 1
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward = float(action == self._wanted)
        self._steps += 1
        over = self._steps == EPISODE_STEPS
        return self._frame(), reward, over and self._episode % 2 == 0, over and self._episode % 2 == 1, {}


gymnasium.register("PixelMatch-v0", PixelMatch)
