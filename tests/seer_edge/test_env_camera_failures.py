"""Cameras report failures of their device, and return images again once it works."""

import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seer_edge.envs import camera_capture
from seer_edge.envs.camera import Camera, CameraFailedError
from seer_edge.envs.camera_capture import Stillness
from seer_edge.errors import EnvironmentFailedError
from tests.seer_edge.camera_rig import (
    PATIENCE_SECONDS,
    FakeDevice,
    Hang,
    disappears,
    exits,
    fails,
    garbles,
    raises,
    repeats,
    until,
    works,
)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (disappears, "it returns no image; check its cable and power"),
        (raises, r"OSError: Input/output error \(camera_rig.py:\d+\)"),
        (exits, r"SystemExit: 3 \(camera_rig.py:\d+\)"),
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
