"""A robot that learns to follow a line: `seer-edge train --env line_follower:LineFollower-v0`."""

import time

import gymnasium
import numpy as np

from seer_edge.envs import next_tick
from seer_edge.envs.camera import Camera


class FakeRobot:
    """A simulated robot with a camera. It drives on along a winding line, whether or not anybody looks or steers."""

    def __init__(self, fps=30):
        self.period, self.due, self.rng = 1 / fps, time.monotonic(), np.random.default_rng(0)
        self.turn, self.distance = 0.0, 0.0
        self.place()

    def place(self):
        self.offset, self.heading = self.rng.uniform(-0.2, 0.2), 0.0  # from the line, in meters and radians

    def steer(self, turn):
        self.turn = turn  # radians a second

    def read(self):
        """Wait for the next image, as OpenCV's `VideoCapture.read` does, and return it."""
        now = time.monotonic()
        self.due = max(self.due + self.period, now)
        time.sleep(self.due - now)
        self._drive(self.period)
        return True, self._image()

    def _curvature(self, distance):
        return 0.8 * np.sin(1.3 * distance) + 0.6 * np.sin(0.5 * distance)  # of the line, radians a meter

    def _drive(self, seconds):
        speed = 0.5  # meters a second
        self.distance += speed * seconds
        self.heading += (self.turn - speed * self._curvature(self.distance)) * seconds
        self.offset += speed * np.sin(self.heading) * seconds

    def _image(self):
        ahead = np.linspace(0.5, 0.05, 120)[:, None]  # meters to each row of the image; the first row is the farthest
        line = -self.offset - self.heading * ahead + self._curvature(self.distance) * ahead**2 / 2
        pixel = 80 + 160 * line  # its column in each row
        dark = np.abs(np.arange(160) - pixel) < 7
        gray = np.where(dark, 40, 190) + self.rng.integers(-20, 20, (120, 160))
        return np.repeat(gray[:, :, None].astype(np.uint8), 3, axis=2)


class LineFollower(gymnasium.Env):
    """Return the image and a reward of at most 1 for a line in its middle. Actions are left, straight and right.

    `source` is "simulated", or the camera: a number, a device, "picamera2", or a video file, which plays in a loop.
    """

    def __init__(self, source="simulated", fps=30, max_age=0.5):
        self.observation_space = gymnasium.spaces.Box(0, 255, (42, 42), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.robot = FakeRobot(fps)  # replace it by your motors
        eye = self.robot if source == "simulated" else source
        is_video = isinstance(source, str) and source.endswith((".avi", ".mp4"))
        lower = (0, 30, 160, 90)  # the lower three quarters of an image of 160x120 pixels
        self.camera = Camera(eye, crop=lower, size=(42, 42), gray=True, max_age=max_age, loop=is_video)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.robot.steer(0)
        self.robot.place()  # on the line; a real robot drives back, or waits for a person
        self.steps = 0
        return self.camera.wait_for_next().image, {}

    def step(self, action):
        self.robot.steer((int(action) - 1) * 1.5)
        # With --hz the next tick sets the time, otherwise the first image that is read after the action.
        image = (self.camera.newest() if next_tick() else self.camera.wait_for_next()).image
        self.steps += 1
        near = image[-10:]  # in front of the wheels
        dark = (near < 110).mean(axis=0)
        lost = dark.max() < 0.3
        reward = 0.0 if lost else 1 - 2 * abs(np.average(np.arange(42), weights=dark) / 41 - 0.5)
        return image, reward, bool(lost), self.steps == 300, {}  # truncated after 10 seconds at 30 images a second

    def rest(self):
        self.robot.steer(0)  # a real robot also stops

    def close(self):
        self.rest()
        self.camera.close()


gymnasium.register("LineFollower-v0", LineFollower)
