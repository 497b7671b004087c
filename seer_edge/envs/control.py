"""Tasks of the DeepMind Control Suite, observed through a rendered camera."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.actions import Action, Continuous
from seer_edge.envs.environment import EnvSpec, Episode, Frame, Step
from seer_edge.envs.names import EnvId, ResolutionError, UnsupportedEnvError
from seer_edge.envs.physics_state import restore_suite, suite_state
from seer_edge.envs.rendering import cannot_render, load_suite
from seer_edge.envs.state_reader import StateReader
from seer_runtime.policy.actions import Bounded, middle_and_half_range
from seer_runtime.system.state import State

RESOLUTION = 100
CROP = 84
"""Side of the learner's crop of a frame of size RESOLUTION. Both scale together (Sections 4.2 and 6)."""
ACTION_REPEAT = 4
PROCESS_BYTES = 230_000_000
"""Memory of dm_control, OpenGL and two environments, for training and evaluation: `tools/rssbench.py causes`."""

RESOLUTIONS = tuple(range(25, 176, 25))
"""Valid resolutions. Larger frames would exceed the cap on the workspace (see `plan`)."""
# Cameras that follow the body, for the domains whose first camera does not.
_CAMERAS = {"dog": "y-axis", "quadruped": "y"}


class Control:
    """A control task with frames uint8 RGB `[3, R, R]`, where R is `resolution`.

    One agent step is `action_repeat` steps of the task. The camera is the domain's first one, or the one that follows
    the body. Actions in [-1, 1] are scaled to the task's bounds. The learner crops frames to 84 of each 100 pixels
    (Section 4.2).

    Raises ResolutionError unless R is one of RESOLUTIONS, UnsupportedEnvError for a task with unbounded actions,
    UnavailableEnvError where dm_control or OpenGL is missing or fails, and ValueError for an `action_repeat` below 1.
    """

    new_scene = True  # each episode starts one

    def __init__(
        self, env_id: EnvId, *, seed: int, action_repeat: int | None = None, resolution: int | None = None
    ) -> None:
        size = RESOLUTION if resolution is None else resolution
        if size not in RESOLUTIONS:
            reason = "is not a size at which frames and crops of a control task scale together (100 : 84)"
            if size > RESOLUTIONS[-1]:
                reason = "is too large for the workspace"
            raise ResolutionError(f"resolution {size} {reason}; use one of {', '.join(map(str, RESOLUTIONS))}")
        self._action_repeat = ACTION_REPEAT if action_repeat is None else action_repeat
        if self._action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got action_repeat {action_repeat}")

        suite = load_suite()
        domain, task = env_id.registered.split("/")
        self._env: Any = suite.load(domain, task, task_kwargs={"random": seed})
        self._middle, self._half_range = _scale(self._env.action_spec(), env_id)
        crop = size * CROP // RESOLUTION
        actions = Continuous(len(self._middle))
        self.spec = EnvSpec(
            env_id.id,
            env_id.name,
            (3, size, size),
            (crop, crop),
            actions,
            PROCESS_BYTES,
            own_actions=_own_actions(self._env.action_spec()),
        )
        self._camera = _camera(self._env.physics, size, _CAMERAS.get(domain, 0))

        self._stepping = False
        self._return = 0.0
        self._length_steps = 0

    def reset(self) -> Frame:
        """Start an episode and return its first frame."""
        self._env.reset()
        self._stepping = True
        self._return = 0.0
        self._length_steps = 0
        return self._frame()

    def step(self, action: Action) -> Step:
        """Repeat `action`, float32 `[A]`, for `action_repeat` task steps or to the episode's end, and sum the rewards.

        The time limit truncates. Only an end with a discount of zero terminates. Raises RuntimeError before `reset`.
        """
        if not self._stepping:
            raise RuntimeError("reset the environment before its next step")
        controls = self._middle + self._half_range * np.asarray(action, np.float64)
        reward = 0.0
        for _ in range(self._action_repeat):
            time_step = self._env.step(controls)
            reward += float(time_step.reward)
            if time_step.last():
                break
        over = bool(time_step.last())
        terminated = over and time_step.discount == 0

        self._return += reward
        self._length_steps += 1
        self._stepping = not over
        episode = Episode(self._return, self._length_steps) if over else None
        return Step(self._frame(), reward, terminated, over and not terminated, episode)

    def close(self) -> None:
        """Release the physics and its OpenGL context."""
        self._stepping = False
        self._env.physics.free()

    def state(self) -> State:
        """Return the physics, the task's random choices for this episode, its random stream and the episode's sums."""
        suite = suite_state(self._env)
        values = {
            "env": self.spec.id,
            "stepping": self._stepping,
            "return": self._return,
            "length_steps": self._length_steps,
        }
        return State({**suite.values, **values}, suite.arrays)

    def restore(self, state: State) -> None:
        """Continue from `state`. Raises StateError for an invalid one."""
        saved = StateReader(state, self.spec.id)
        stepping, length_steps = saved.flag("stepping"), saved.count("length_steps")
        episode_return = saved.number("return")
        restore_suite(self._env, saved)
        self._stepping, self._return, self._length_steps = stepping, episode_return, length_steps

    def _frame(self) -> Frame:
        # A copy, because the camera reuses one buffer.
        return np.array(self._camera.render().transpose(2, 0, 1), np.uint8, order="C")


def _scale(spec: Any, env_id: EnvId) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the middle and half the range of each control, both float64 `[A]`."""
    import mujoco

    middle, half_range = middle_and_half_range(spec.minimum, spec.maximum)
    if np.any(2 * half_range >= mujoco.mjMAXVAL):
        raise UnsupportedEnvError(
            f"control task {env_id.name!r} has unbounded actions; choose a task with bounded ones"
        )
    return middle, half_range


def _own_actions(spec: Any) -> Bounded | None:
    """Return the bounds of the task's actions, or None where they are [-1, 1]."""
    low, high = (np.broadcast_to(bound, spec.shape).ravel().tolist() for bound in (spec.minimum, spec.maximum))
    own = Bounded(spec.shape, str(spec.dtype), tuple(low), tuple(high))
    return None if set(own.low) == {-1.0} and set(own.high) == {1.0} else own


def _camera(physics: Any, size: int, camera: int | str) -> Any:
    """Build a camera and render once, so that a failure of OpenGL is reported here."""
    from dm_control.mujoco import Camera

    try:
        # One camera for all frames. `physics.render` would build one for each frame, which takes 1 to 2 ms.
        found = Camera(physics, height=size, width=size, camera_id=camera)
        found.render()
    except Exception as error:
        raise cannot_render(error) from error
    return found
