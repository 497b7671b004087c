"""A camera that learns to keep a lamp in the middle of its image: `seer-edge train --env camera_env:Camera-v0`."""

import gymnasium
import numpy as np


class FakeCamera:
    """A simulated `cv2.VideoCapture` on a servo. It shows a dark room in which somebody carries a lamp."""

    def __init__(self, rng):
        self.rng, self.lamp = rng, rng.uniform(-1, 1)  # -1 and 1 are the edges of the image

    def pan(self, turn):
        self.lamp = np.clip(self.lamp - turn, -1, 1)

    def read(self):
        self.lamp = self.rng.uniform(-1, 1) if self.rng.random() < 0.05 else self.lamp
        image = self.rng.integers(0, 40, (120, 160, 3), np.uint8)
        column = int(80 + 68 * self.lamp)
        image[52:68, column - 8 : column + 8] = (90, 220, 255)  # blue, green, red
        return True, image


class Camera(gymnasium.Env):
    """Return one image per step. Actions are left, stay and right, or a speed in [-1, 1] if `smooth`."""

    def __init__(self, smooth=False):
        self.observation_space = gymnasium.spaces.Box(0, 255, (120, 160, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,)) if smooth else gymnasium.spaces.Discrete(3)
        self.smooth = smooth

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.camera, self.steps = FakeCamera(self.np_random), 0  # for a real one, use seer_edge.envs.camera
        return self._look(), {}

    def step(self, action):
        self.camera.pan(0.2 * (float(action[0]) if self.smooth else int(action) - 1))
        image = self._look()
        self.steps += 1
        brightness = image.mean(axis=2).max(axis=0)  # per column
        reward = 1 - 2 * abs(brightness.argmax() / brightness.size - 0.5)
        return image, reward, False, self.steps == 100, {}  # truncated after 100 steps

    def _look(self):
        answered, image = self.camera.read()
        if not answered:
            raise OSError("the camera returns no image")  # the run writes a checkpoint and exits with status 75
        return np.ascontiguousarray(image[:, :, ::-1])  # OpenCV returns blue first


gymnasium.register("Camera-v0", Camera)
gymnasium.register("SmoothCamera-v0", Camera, kwargs={"smooth": True})
