"""Cameras return their newest image, or report why there is none."""

import gc
import logging
import math
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from seer_edge.envs import camera_capture
from seer_edge.envs.camera import Camera, CameraFailedError
from seer_edge.envs.camera_capture import Stillness, View
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.preprocess import to_gray

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
    """Cameras that are closed after the test."""
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


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (disappears, "it returns no image; check its cable and power"),
        (raises, r"OSError: Input/output error \(test_env_camera.py:\d+\)"),
        (exits, r"SystemExit: 3 \(test_env_camera.py:\d+\)"),
        (garbles, r"its image is .*float32.*, not uint8 \[H, W\] or \[H, W, 3\]"),
    ],
)
def test_a_camera_that_fails_is_an_error_until_it_returns(
    failure: Callable[[Any], Any],
    reason: str,
    open_camera: Callable[..., Camera],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("seer_edge"), "propagate", True)
    device = FakeDevice()
    camera = open_camera(device, max_age=0.1)
    device.behave = failure
    error = fails(camera)
    assert isinstance(error, EnvironmentFailedError)
    message = str(error)
    assert "\n" not in message
    expected = r"camera FakeDevice: its newest image is \d+\.\d\d s old, more than max_age=0\.1, because "
    assert re.fullmatch(expected + reason, message)
    device.behave = works
    returned = camera.newest(PATIENCE_SECONDS)
    assert (returned.image == returned.image[0, 0]).all()
    until(lambda: len(caplog.records) > 1)
    gone, back = caplog.messages
    assert gone.startswith("camera FakeDevice: ")
    assert gone.endswith("; trying to open it again")
    assert re.fullmatch(r"camera FakeDevice: it shows images again, after \d+\.\d s without any", back)


def test_a_driver_that_hangs_is_an_error_and_blocks_no_longer_than_asked(open_camera: Callable[..., Camera]) -> None:
    device, hang = FakeDevice(), Hang()
    camera = open_camera(device, max_age=0.1)
    device.behave = hang
    assert "because the driver has returned no other since" in str(fails(camera))
    begin = time.monotonic()
    with pytest.raises(CameraFailedError, match=r"more than max_age=0\.1"):
        camera.newest(timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < PATIENCE_SECONDS
    with pytest.raises(CameraFailedError, match=r"more than max_age=0\.1"):
        camera.wait_for_next(timeout=0.05)
    device.behave = works
    hang.end.set()
    assert camera.wait_for_next(PATIENCE_SECONDS).age_seconds < PATIENCE_SECONDS


def test_a_camera_that_slows_down_has_no_next_image_in_time(open_camera: Callable[..., Camera]) -> None:
    device, hang = FakeDevice(), Hang()
    camera = open_camera(device, max_age=PATIENCE_SECONDS)
    device.behave = hang
    until(lambda: camera.newest().age_seconds > 0.05)
    with pytest.raises(CameraFailedError, match=r"it has no image after the action, the newest is .* s old, because"):
        camera.wait_for_next(timeout=0.01)
    camera.newest()
    hang.end.set()


def test_a_function_opens_the_camera_again_after_growing_pauses(
    open_camera: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_capture, "_PAUSE_SECONDS", (0.02, 0.1))
    opened: list[FakeDevice] = []
    times: list[float] = []

    def usb() -> FakeDevice:
        times.append(time.monotonic())
        if 2 <= len(times) <= 6:
            raise OSError("no device")
        opened.append(FakeDevice())
        return opened[-1]

    camera = open_camera(usb, max_age=0.1)
    assert camera.name == "camera usb"
    opened[0].behave = disappears
    assert fails(camera)
    until(lambda: len(opened) == 2)
    assert camera.newest(PATIENCE_SECONDS).number > 1
    assert opened[0].released == 1
    pauses = np.diff(times)
    assert len(pauses) == 6
    assert (pauses[1:] >= [0.02 * 2, 0.02 * 4, 0.1, 0.1, 0.1]).all()
    camera.close()
    assert opened[1].released == 1


def test_repeated_images_are_an_error_until_they_change(open_camera: Callable[..., Camera]) -> None:
    device = FakeDevice()
    camera = open_camera(device, frozen_after=0.1, max_age=PATIENCE_SECONDS)
    device.behave = repeats
    assert re.fullmatch(
        r"camera FakeDevice: it has shown exactly the same image for \d+\.\d\d s, more than frozen_after=0\.1; restart "
        r"the camera, or use frozen_after=math\.inf if its pictures can stand still",
        str(fails(camera)),
    )
    device.behave = works
    camera.newest(PATIENCE_SECONDS)


def test_frozen_after_is_on_for_devices_and_can_be_switched_off(
    open_camera: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seer_edge.envs.camera.FROZEN_AFTER_SECONDS", 0.05)
    options: dict[str, Any] = {"max_age": PATIENCE_SECONDS}
    assert "more than frozen_after=0.05" in str(fails(open_camera(FakeDevice(repeats), **options)))
    device = FakeDevice(repeats)
    camera = open_camera(device, frozen_after=math.inf, **options)
    until(lambda: device.reads > 30)
    camera.newest()


def test_repetition_is_detected_as_by_a_comparison_of_all_pixels() -> None:
    """Of a pair of equal images only the second one is known to be equal, one image later."""
    rng = np.random.default_rng(0)
    stillness, since, image = Stillness(), 0, np.zeros((20, 20, 3), np.uint8)
    compared = 0
    for now in range(1_000):
        changes = now == 0 or rng.random() < 0.3
        if changes:
            image = image.copy()
            image[tuple(rng.integers(0, 20, 2))] += 1
            since = now
        stillness.see(image, now)
        assert since <= stillness.since_seconds <= now
        if now - since >= 2:
            assert stillness.since_seconds in (since, since + 1)
            compared += 1
    assert compared > 100


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


# --- videos and picamera2 ----------------------------------------------------------------------------------


def write_video(path: Path, count: int, rate: float) -> str:
    """Write `count` images of 48x32 pixels, whose gray value is 20 times their number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (48, 32))
    for number in range(count):
        writer.write(np.full((32, 48, 3), 20 * number, np.uint8))
    writer.release()
    return str(path)


def test_a_video_plays_in_order_at_its_rate_and_ends(open_camera: Callable[..., Camera], tmp_path: Path) -> None:
    begin = time.monotonic()
    camera = open_camera(write_video(tmp_path / "lap.avi", 10, rate=40), gray=True, max_age=PATIENCE_SECONDS)
    frames = [camera.newest()]
    while frames[-1].number < 10:
        frames.append(camera.wait_for_next())
    with pytest.raises(CameraFailedError, match="because the video has ended; use loop=True to play it again"):
        camera.wait_for_next()
    assert [frame.image.shape for frame in frames] == [(32, 48)] * len(frames)
    shown = [int(frame.image.mean()) for frame in frames]
    assert all(abs(20 * (frame.number - 1) - value) <= 4 for frame, value in zip(frames, shown, strict=True))
    assert camera.newest().number == 10
    assert camera.newest().time_seconds - begin >= 9 / 40


def test_a_video_plays_in_a_loop_on_request(open_camera: Callable[..., Camera], tmp_path: Path) -> None:
    camera = open_camera(Path(write_video(tmp_path / "lap.avi", 4, rate=100)), gray=True, loop=True, max_age=30)
    until(lambda: camera.newest().number > 12)
    frame = camera.wait_for_next()
    assert abs(int(frame.image.mean()) - 20 * ((frame.number - 1) % 4)) <= 4
    assert 0 < camera.frames_per_second < 120  # the first of 12 images or more may have been late


def test_a_video_may_show_stills(open_camera: Callable[..., Camera], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("seer_edge.envs.camera.FROZEN_AFTER_SECONDS", 0.01)
    path = write_video(tmp_path / "still.avi", 1, rate=100)
    camera = open_camera(path, loop=True, max_age=PATIENCE_SECONDS)
    until(lambda: camera.newest().number > 10)
    frozen = open_camera(path, loop=True, max_age=PATIENCE_SECONDS, frozen_after=0.05)
    assert "more than frozen_after=0.05" in str(fails(frozen))


def test_picamera2_is_opened_with_bgr_images_and_without_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the interface of picamera2 0.3, which needs the hardware of a board."""
    calls: list[Any] = []

    class Picamera2:
        def create_video_configuration(self, **options: Any) -> Any:
            return options

        def configure(self, options: Any) -> None:
            calls.append(options)

        def start(self) -> None:
            calls.append("start")

        def capture_array(self, name: str) -> Any:
            time.sleep(0.005)
            assert name == "main"
            image = np.zeros((24, 32, 3), np.uint8)
            image[:] = (1, 2, 3)
            return image

        def stop(self) -> None:
            calls.append("stop")

        def close(self) -> None:
            calls.append("close")

    module: Any = types.ModuleType("picamera2")
    module.Picamera2 = Picamera2
    monkeypatch.setitem(sys.modules, "picamera2", module)
    with Camera("picamera2") as camera:
        assert camera.newest(PATIENCE_SECONDS).image[0, 0].tolist() == [3, 2, 1]
    opened = {"main": {"size": (640, 480), "format": "RGB888"}, "queue": False}
    assert calls == [opened, "start", "stop", "close"]
