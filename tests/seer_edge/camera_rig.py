"""Simulated devices and drivers for the tests of cameras."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from seer_edge.envs.camera import Camera, CameraFailedError

PATIENCE_SECONDS = 20.0  # enough for anything that needs milliseconds, even on a loaded machine


class FakeDevice:
    """A device of 200 images a second with OpenCV's `read`. `behave` is called for each image, and may be replaced."""

    def __init__(self, behave: Callable[[Any], Any] = lambda image: (True, image)) -> None:
        self.behave, self.reads, self.released = behave, 0, 0

    def read(self) -> Any:
        time.sleep(0.005)
        self.reads += 1
        return self.behave(numbered(self.reads))

    def release(self) -> None:
        self.released += 1


def numbered(number: int) -> Any:
    return np.full((24, 32, 3), number % 256, np.uint8)


def works(image: Any) -> Any:
    return True, image


def disappears(image: Any) -> Any:
    return False, None


def raises(image: Any) -> Any:
    raise OSError("Input/output\nerror")


def exits(image: Any) -> Any:
    raise SystemExit(3)


def garbles(image: Any) -> Any:
    return True, image.astype(np.float32)


def repeats(image: Any) -> Any:
    return True, np.zeros_like(image)


class Hang:
    """A driver that does not return until `end`."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def __call__(self, image: Any) -> Any:
        self.end.wait()
        return True, image


@pytest.fixture
def open_camera() -> Iterator[Callable[..., Camera]]:
    """Return a function that opens cameras, which are closed after the test."""
    cameras: list[Camera] = []

    def build(source: Any, **options: Any) -> Camera:
        cameras.append(Camera(source, **options))
        return cameras[-1]

    yield build
    for camera in cameras:
        camera.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fails(camera: Camera) -> CameraFailedError:
    """Return the error of the camera once its newest image is refused."""
    found: list[CameraFailedError] = []

    def refused() -> bool:
        try:
            camera.newest()
        except CameraFailedError as error:
            found.append(error)
        return bool(found)

    until(refused)
    return found[0]


def write_video(path: Path, count: int, rate: float) -> str:
    """Write `count` images of 48x32 pixels, whose gray value is 20 times their number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (48, 32))
    for number in range(count):
        writer.write(np.full((32, 48, 3), 20 * number, np.uint8))
    writer.release()
    return str(path)
