"""Any Gymnasium environment that shows images and takes discrete actions."""

from typing import Any

import gymnasium
import numpy as np

from seer_edge.envs import EnvSpec, Episode, Step
from seer_edge.envs.actions import Action, Discrete
from seer_edge.envs.checks import finite_reward, truth
from seer_edge.envs.names import EnvId, UnavailableEnvError, UnsupportedEnvError
from seer_edge.envs.resolution import pixel_size
from seer_edge.errors import origin
from seer_runtime.preprocess import Frame, resize, to_gray
from seer_runtime.state import State, StateError

FRAME_SIZE_MAX = (84, 84)


class GymPixels:
    """An environment as it is registered, observed as uint8 [H, W] in gray.

    With a `resolution` of R every screen is area-resized to RxR. Without, at most 84x84 is kept at its size, and what
    is larger on either side is area-resized to 84x84.
    Raises UnsupportedEnvError for observations other than uint8 [H, W], [H, W, 1] or [H, W, 3] and for actions that
    are not discrete, UnavailableEnvError where a package that the environment needs is missing, ResolutionError for R
    outside 16 to 210.
    """

    def __init__(self, env_id: EnvId, *, seed: int, resolution: int | None = None) -> None:
        asked_size = None if resolution is None else pixel_size(resolution)
        try:
            self._env: gymnasium.Env[Any, Any] = gymnasium.make(gymnasium.registry[env_id.registered])
        except (gymnasium.error.Error, ImportError) as error:
            reason = " ".join(str(error).split())
            raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {reason}") from error
        except Exception as error:  # a user's own class may raise anything
            raise UnavailableEnvError(f"environment {env_id.id!r} cannot be built: {origin(error)}") from error
        observations, actions = self._env.observation_space, self._env.action_space
        if not _shows_images(observations):
            self._env.close()
            raise UnsupportedEnvError(
                f"environment {env_id.id!r} observes {' '.join(str(observations).split())}; "
                "uint8 images [H, W], [H, W, 1] or [H, W, 3] are needed"
            )
        if not isinstance(actions, gymnasium.spaces.Discrete):
            self._env.close()
            raise UnsupportedEnvError(f"environment {env_id.id!r} has {actions} for actions; discrete ones are needed")
        assert observations.shape is not None
        self._shape = observations.shape
        height, width = self._shape[:2]
        fits = height <= FRAME_SIZE_MAX[0] and width <= FRAME_SIZE_MAX[1]
        self._size = asked_size or ((height, width) if fits else FRAME_SIZE_MAX)
        self._first_action = int(actions.start)
        self.spec = EnvSpec(env_id.id, env_id.name, self._size, self._size, Discrete(int(actions.n)))

        self._seed: int | None = seed
        self._stepping = False
        self._return = 0.0
        self._length_steps = 0

    def reset(self) -> Frame:
        """The first frame of a new episode."""
        observation, _ = self._env.reset(seed=self._seed)
        self._seed = None
        self._stepping = True
        self._return = 0.0
        self._length_steps = 0
        return self._frame(observation)

    def step(self, action: Action) -> Step:
        """One step of the environment; an end that is both kinds at once is taken as terminated.

        Raises RuntimeError before `reset`, ValueError where an observation is not what the space promised,
        EnvironmentFailedError where a reward or an end is none.
        """
        if not self._stepping:
            raise RuntimeError("reset the environment before its next step")
        observation, raw_reward, terminated, truncated, _ = self._env.step(self._first_action + int(action))
        reward = finite_reward(raw_reward)
        terminated, truncated = truth("terminated", terminated), truth("truncated", truncated)
        self._return += reward
        self._length_steps += 1
        over = terminated or truncated
        self._stepping = not over
        episode = Episode(self._return, self._length_steps) if over else None
        return Step(self._frame(observation), reward, terminated, truncated and not terminated, episode)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def state(self) -> None:
        """None: what an environment of Gymnasium's has inside is its own affair."""

    def restore(self, state: State) -> None:
        """Raises StateError: there are no states of such an environment."""
        raise StateError(f"environment {self.spec.id!r} cannot be restored")

    def _frame(self, observation: Any) -> Frame:
        screen = np.asarray(observation)
        if screen.shape != self._shape or screen.dtype != np.uint8:
            raise ValueError(
                f"environment {self.spec.id!r} promised uint8 {list(self._shape)} and showed "
                f"{screen.dtype} {list(screen.shape)}"
            )
        gray = to_gray(screen) if screen.shape[2:] == (3,) else screen.reshape(screen.shape[:2])
        frame = resize(gray, self._size)
        # Still the environment's own memory: it may draw its next screen there.
        return frame.copy() if np.may_share_memory(frame, screen) else frame


def _shows_images(space: gymnasium.Space[Any]) -> bool:
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3))
