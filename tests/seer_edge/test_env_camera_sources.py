"""Videos and picamera2 as sources of a camera."""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.envs.camera import Camera, CameraFailedError
from tests.seer_edge.camera_rig import PATIENCE_SECONDS, fails, until, write_video


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
