"""Images of a camera, and how it is opened and closed."""

import gc
import logging
import math
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from seer_edge.envs import camera_capture
from seer_edge.envs.camera import Camera, CameraFailedError
from seer_edge.envs.camera_capture import View
from seer_runtime.policy.preprocess import to_gray
from tests.seer_edge.camera_rig import (
    PATIENCE_SECONDS,
    FakeDevice,
    Hang,
    disappears,
    fails,
    numbered,
    until,
    write_video,
)

# --- images ------------------------------------------------------------------------------------------------


def test_the_newest_image_is_kept_and_no_other(open_camera: Callable[..., Camera]) -> None:
    device = FakeDevice()
    camera = open_camera(device)
    first = camera.newest(PATIENCE_SECONDS)
    until(lambda: device.reads > 30)
    before = time.monotonic()
    frame = camera.newest(PATIENCE_SECONDS)
    assert frame.number >= 30 > first.number
    assert (frame.image == frame.number % 256).all()
    assert before - 0.5 < frame.time_seconds <= time.monotonic()
    assert 0 <= frame.age_seconds < PATIENCE_SECONDS


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("size", [None, (10, 6)])
@pytest.mark.parametrize("crop", [None, (4, 3, 20, 12)])
def test_images_are_cropped_resized_and_converted(crop: Any, size: Any, gray: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    expected = rgb if crop is None else rgb[3:15, 4:24]
    expected = to_gray(np.ascontiguousarray(expected)) if gray else expected
    expected = expected if size is None else cv2.resize(expected, size, interpolation=cv2.INTER_AREA)
    shown = View(crop, size, gray).of(rgb[:, :, ::-1])
    np.testing.assert_array_equal(shown, expected)
    assert shown.flags.c_contiguous
    assert not shown.flags.writeable


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1)])
def test_gray_devices_give_gray_or_rgb(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(View(None, None, True).of(image), image.reshape(24, 32))
    rgb = View(None, None, False).of(image)
    assert rgb.shape == (24, 32, 3)
    assert (rgb == image.reshape(24, 32, 1)).all()


def test_a_device_may_reuse_the_memory_of_its_images() -> None:
    image = np.zeros((24, 32), np.uint8)
    shown = View((0, 0, 32, 12), None, True).of(image)
    image[:] = 255
    assert not shown.any()


def test_the_next_image_is_read_after_the_call(open_camera: Callable[..., Camera]) -> None:
    camera = open_camera(FakeDevice(), max_age=PATIENCE_SECONDS)
    for _ in range(5):
        before = time.monotonic()
        assert camera.wait_for_next().time_seconds > before
    effect = time.monotonic() + 0.05
    assert camera.wait_for_next(after=effect).time_seconds > effect


def test_the_rate_is_measured(open_camera: Callable[..., Camera]) -> None:
    device = FakeDevice()
    camera = open_camera(device)
    until(lambda: device.reads > 20)
    assert 0 < camera.frames_per_second <= 200
    device.behave = disappears
    until(lambda: camera.frames_per_second == 0)


def test_a_device_that_never_waits_does_not_occupy_a_core(open_camera: Callable[..., Camera]) -> None:
    device = types.SimpleNamespace(read=lambda: (True, numbered(next(numbers))))
    numbers = iter(range(10**9))
    camera = open_camera(device, frozen_after=math.inf, max_age=PATIENCE_SECONDS)
    until(lambda: camera.newest().number > 20)
    assert camera.frames_per_second <= 250


# --- opening and closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (97, "camera 97: there is no /dev/video97; check its cable and its number"),
        ("/dev/video98", "camera /dev/video98: there is no /dev/video98; check its cable and its number"),
        ("/dev/null", "camera /dev/null: OpenCV cannot open it; check that it is a camera and that no other program"),
        ("no.avi", "video no.avi: there is no such file; check the path"),
        (__file__, f"video {__file__}: OpenCV cannot read it; check that it is a video"),
        (
            "picamera2",
            "camera picamera2: the package picamera2 cannot be imported (No module named 'picamera2'); install",
        ),
        (FakeDevice(disappears), "camera FakeDevice: it returns no image; check its cable and power"),
    ],
)
def test_a_camera_that_cannot_be_opened_is_reported_in_one_line(source: Any, line: str) -> None:
    with pytest.raises(CameraFailedError) as caught:
        Camera(source)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_camera_without_a_first_image_fails_after_open_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_capture, "_CLOSE_SECONDS", 0.05)
    hang = Hang()
    with pytest.raises(CameraFailedError, match=r"it has returned no image within open_timeout=0\.1 seconds"):
        Camera(FakeDevice(hang), open_timeout=0.1)
    hang.end.set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": True}, "True is not a camera; use a number, a path, 'picamera2', an object with"),
        ({"source": -1}, "-1 is not a camera"),
        ({"source": ""}, "'' is not a camera"),
        ({"size": (0, 84)}, r"size=\(0, 84\): not a positive width and height in pixels"),
        ({"size": 84}, "size=84: not a positive width and height"),
        ({"crop": (0, 0, 10)}, r"crop=\(0, 0, 10\): not x, y, width and height in pixels"),
        ({"crop": [0, -1, 10, 10]}, r"crop=\[0, -1, 10, 10\]: not x, y"),
        ({"max_age": 0}, "max_age=0: not a positive number of seconds"),
        ({"frozen_after": float("nan")}, "frozen_after=nan: not a positive number of seconds"),
        ({"loop": True}, "loop=True is for video files, and camera FakeDevice is not one; leave it out"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera(**{"source": FakeDevice(), **options})


def test_a_crop_outside_of_the_image_is_refused() -> None:
    with pytest.raises(CameraFailedError, match=r"crop=\(0, 20, 32, 8\) reaches outside of its image of 32x24 pixels"):
        Camera(FakeDevice(), crop=(0, 20, 32, 8))


def test_close_ends_the_thread_and_releases_the_device() -> None:
    device = FakeDevice()
    with Camera(device) as camera:
        camera.newest(PATIENCE_SECONDS)
    reads = device.reads
    time.sleep(0.05)
    assert (device.reads, device.released) == (reads, 1)
    with pytest.raises(CameraFailedError, match="camera FakeDevice: it was closed; create another Camera"):
        camera.wait_for_next()
    camera.close()
    assert device.released == 1


def test_a_camera_that_is_deleted_is_closed() -> None:
    device = FakeDevice()
    camera = Camera(device)
    del camera
    gc.collect()
    until(lambda: device.released)


def test_close_does_not_wait_for_a_driver_that_hangs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_capture, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(logging.getLogger("seer_edge"), "propagate", True)
    device, hang = FakeDevice(), Hang()
    camera = Camera(device, max_age=0.1)
    device.behave = hang
    fails(camera)
    camera.close()
    assert caplog.messages == ["camera FakeDevice: its driver does not answer, so its thread was not ended"]
    hang.end.set()
    until(lambda: device.released)


@pytest.mark.integration
@pytest.mark.parametrize("source", ["Hanging()", "sys.argv[1]"])
def test_a_camera_that_is_not_closed_does_not_disturb_the_end_of_the_process(source: str, tmp_path: Path) -> None:
    code = f"""
        import logging, sys, threading
        from seer_edge.envs import camera, camera_capture

        class Hanging:
            def read(self, count=[0]):
                count[0] += 1
                if count[0] > 1:
                    threading.Event().wait()
                return True, camera_capture.np.zeros((4, 4), "uint8")

        camera_capture._CLOSE_SECONDS = 0.2
        held = camera.Camera({source}, **({{"loop": True}} if "argv" in {source!r} else {{}}))
        held.newest(60)
        print("ends", "torch" in sys.modules)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), write_video(tmp_path / "lap.avi", 10, rate=100)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "ends False\n")
