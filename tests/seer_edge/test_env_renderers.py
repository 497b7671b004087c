"""Environments with a renderer of MuJoCo: closing one of them does not change the frames of the others."""

import os
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from seer_edge.envs import EnvOptions
from seer_edge.envs.guarded import Guarded, open_guarded
from tests.seer_edge.env_registry import register

pytestmark = pytest.mark.integration

PENDULUM = """
<mujoco><worldbody><light pos="0 0 3"/><camera name="side" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
<body><joint name="hinge" type="hinge" axis="0 1 0"/><geom type="capsule" size=".1" fromto="0 0 0 0 0 -1" mass="1"/>
</body></worldbody><actuator><motor joint="hinge"/></actuator></mujoco>
"""


class Pendulum(gymnasium.Env[Any, Any]):
    """An environment that only renders, in its own OpenGL context."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        import mujoco

        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(PENDULUM)
        self.data = mujoco.MjData(self.model)
        self.gl = mujoco.GLContext(50, 50)
        self.gl.make_current()
        self.scene = mujoco.MjvScene(self.model, maxgeom=100)
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        import mujoco

        self.data.qpos[0], self.data.qvel[0] = 0.5, 0
        mujoco.mj_forward(self.model, self.data)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        import mujoco

        self.data.ctrl[0] = action[0]
        mujoco.mj_step(self.model, self.data, 10)
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        """Draw with the context that is current, as Gymnasium's renderer does."""
        import mujoco

        camera, pixels = mujoco.MjvCamera(), np.empty((50, 50, 3), np.uint8)
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        mask, view = mujoco.mjtCatBit.mjCAT_ALL, mujoco.MjrRect(0, 0, 50, 50)
        mujoco.mjv_updateScene(self.model, self.data, mujoco.MjvOption(), None, camera, mask, self.scene)
        mujoco.mjr_render(view, self.scene, self.context)
        mujoco.mjr_readPixels(pixels, None, view, self.context)
        return pixels[::-1]

    def close(self) -> None:
        self.context.free()
        self.gl.free()


def opened(seed: int) -> Guarded:
    return open_guarded("test/Pendulum-v0", EnvOptions(resolution=50, render=True), seed=seed, training=True)


def frames(disturb: bool) -> NDArray[np.uint8]:
    """Ten frames of one environment, perhaps with another one that is opened and closed meanwhile."""
    env = opened(1)
    seen = [env.reset()]
    for index in range(9):
        if disturb and index in (2, 5):
            other = opened(2)
            other.reset()
            other.step(np.ones(1, np.float32))
            other.close()
        seen.append(env.step(np.zeros(1, np.float32)).frame.copy())
    env.close()
    return np.stack(seen)


def test_a_renderer_that_is_closed_does_not_blacken_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    register(monkeypatch, "test/Pendulum-v0", entry_point=Pendulum)
    alone, disturbed = frames(disturb=False), frames(disturb=True)
    assert len(np.unique(alone.reshape(10, -1), axis=0)) == 10  # it swings
    assert (disturbed.reshape(10, -1).max(axis=1) > 0).all()
    np.testing.assert_array_equal(alone, disturbed)
