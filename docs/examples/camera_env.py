"""A camera that learns to keep a lamp in the middle of its picture: `seer-edge train --env camera_env:Camera-v0`."""

import gymnasium
import numpy as np


class FakeCamera:
    """Answers as `cv2.VideoCapture` does, on a servo that pans it; shows a dark room where somebody carries a lamp."""

    def __init__(self, rng):
        self.rng, self.lamp = rng, rng.uniform(-1, 1)  # the lamp stands at an edge of the picture at -1 and 1

    def pan(self, turn):
        self.lamp = np.clip(self.lamp - turn, -1, 1)

    def read(self):
        self.lamp = self.rng.uniform(-1, 1) if self.rng.random() < 0.05 else self.lamp
        picture = self.rng.integers(0, 40, (120, 160, 3), np.uint8)
        column = int(80 + 68 * self.lamp)
        picture[52:68, column - 8 : column + 8] = (90, 220, 255)  # blue, green, red
        return True, picture


class Camera(gymnasium.Env):
    """One step is one picture; `smooth` takes a speed in [-1, 1] where otherwise there are left, stay and right."""

    def __init__(self, smooth=False):
        self.observation_space = gymnasium.spaces.Box(0, 255, (120, 160, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,)) if smooth else gymnasium.spaces.Discrete(3)
        self.smooth = smooth

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.camera, self.steps = FakeCamera(self.np_random), 0  # a real one is opened once, in __init__
        return self._look(), {}

    def step(self, action):
        self.camera.pan(0.2 * (float(action[0]) if self.smooth else int(action) - 1))
        picture = self._look()
        self.steps += 1
        brightness = picture.mean(axis=2).max(axis=0)  # of each column
        reward = 1 - 2 * abs(brightness.argmax() / brightness.size - 0.5)
        return picture, reward, False, self.steps == 100, {}  # never terminated, truncated after 100 steps

    def _look(self):
        answered, picture = self.camera.read()
        if not answered:
            raise OSError("the camera gives no picture")  # the run checkpoints and exits 75, its service restarts it
        return np.ascontiguousarray(picture[:, :, ::-1])  # OpenCV has blue first


gymnasium.register("Camera-v0", Camera)
gymnasium.register("SmoothCamera-v0", Camera, kwargs={"smooth": True})
