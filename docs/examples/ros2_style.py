"""Learn in a node that gets its images by callback: `python ros2_style.py runs/node 20000`.

The classes have the shape of ROS 2's rclpy, but need no ROS. There, messages have types.
"""

import signal
import sys
import time
import types
from collections import defaultdict

from pole import FALLEN, Device

import seer_edge

callbacks, timers = defaultdict(list), []  # by topic; [due, period in seconds, callback]


class Node:
    """Stands for `rclpy.node.Node`."""

    def create_timer(self, seconds, callback):
        timers.append([time.monotonic() + seconds, seconds, callback])

    def create_subscription(self, topic, callback):
        callbacks[topic].append(callback)

    def create_publisher(self, topic):
        return types.SimpleNamespace(publish=lambda message: [callback(message) for callback in callbacks[topic]])


def spin_once():
    """Wait for the next timer and call it. Stands for `rclpy.spin_once`."""
    timer = due, seconds, callback = min(timers, key=lambda timer: timer[0])
    time.sleep(max(0.0, due - time.monotonic()))
    timer[0] = max(due + seconds, time.monotonic())
    callback()


class Robot(Node):
    """Stands for your camera node and your motor driver."""

    def __init__(self, hz):
        self.device, self.images = Device(), self.create_publisher("image")
        self.device.place(0.05)
        self.create_subscription("motor", self.device.push)
        self.create_subscription("place", self.device.place)
        self.create_timer(1 / hz, lambda: self.images.publish((self.device.picture(), self.device.angle())))


class Balancer(Node):
    """Learns to keep the pole up."""

    def __init__(self, learner):
        self.learner, self.in_episode = learner, False
        self.motor, self.place = self.create_publisher("motor"), self.create_publisher("place")
        self.create_subscription("image", self.on_image)

    def on_image(self, message):
        image, angle = message
        fallen = abs(angle) >= FALLEN
        if fallen and not self.in_episode:  # an episode begins with an image of a pole that stands
            return self.place.publish(0.05)
        action = self.learner.step(image, reward=1 - abs(angle) / FALLEN, terminated=fallen)
        self.in_episode = action is not None  # None: the episode or the run has ended
        self.motor.publish(action - 1 if self.in_episode else 0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: ros2_style.py FOLDER STEPS")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leaves the `with` below, which writes a checkpoint
    folder, steps, hz = sys.argv[1], int(sys.argv[2]), 30
    with seer_edge.Learner((84, 84), 3, run_dir=folder, hz=hz, mem_budget="4MB", total_timesteps=steps) as learner:
        Robot(hz)
        Balancer(learner)
        while not learner.done:
            spin_once()
    print(learner.result.status, learner.result.timestep)
