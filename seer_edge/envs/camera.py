"""A camera for environments: the newest image, cropped, resized and gray, and never an old one.

`Camera` is public. An environment creates one in `__init__`, reads it in `reset` and `step`, and closes it in `close`.
"""

import math
import threading
import time
import weakref
from collections.abc import Sequence
from types import TracebackType

from seer_edge.envs.camera_capture import CameraFrame, Capture, View
from seer_edge.envs.camera_sources import find_source
from seer_edge.errors import EnvironmentFailedError

__all__ = ["Camera", "CameraFailedError", "CameraFrame"]

FROZEN_AFTER_SECONDS = 2.0


class CameraFailedError(EnvironmentFailedError):
    """The camera has no usable image. The message is one line with the camera, the age of its image, and the reason."""


class Camera:
    """A camera whose newest image is always at hand.

    A thread reads, crops, resizes and converts every image, and keeps the newest one only. Reading it takes some
    microseconds. If the camera disappears, the thread opens it again, after pauses of 0.1 s that double up to 5 s.

    The constructor waits for the first image.

    Args:
        source: the number of a camera; the path of a device below `/dev` or of a video file; "picamera2"; an object
            with OpenCV's `read() -> (answered, image)`, whose images are gray or BGR; or a function that opens a camera
            and returns such an object. A function is called again when the camera has disappeared.
        crop: x, y, width and height in pixels of the part of the image that is used. None uses all of it.
        size: width and height in pixels to which that part is resized, by area. None keeps its size.
        gray: whether images are uint8 [H, W] instead of RGB [H, W, 3].
        max_age: the age in seconds above which an image is not used. The default of 0.5 is 15 images at 30 a second. A
            webcam in the dark, which exposes longer, still sends five images a second.
        frozen_after: the seconds after which a camera that shows exactly the same image counts as failed. The noise of
            a sensor changes some pixel of every image. None is 2 for cameras, and never for video files, which may show
            stills. `math.inf` is never.
        loop: whether a video file is played again from its start. Otherwise the camera fails when it has ended.
        open_timeout: the seconds to wait for the first image.

    Raises:
        ValueError: an argument is invalid.
        CameraFailedError: the camera cannot be opened, or has no image within `open_timeout`.

    """

    def __init__(
        self,
        source: object,
        *,
        crop: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        gray: bool = False,
        max_age: float = 0.5,
        frozen_after: float | None = None,
        loop: bool = False,
        open_timeout: float = 10.0,
    ) -> None:
        found = find_source(source, loop=loop)
        if frozen_after is None:
            frozen_after = math.inf if found.is_video else FROZEN_AFTER_SECONDS
        for name, value in {"max_age": max_age, "frozen_after": frozen_after, "open_timeout": open_timeout}.items():
            if not value > 0:
                raise ValueError(f"{name}={value!r}: not a positive number of seconds")
        view = View(crop, size, gray)
        self._name, self._max_age_seconds, self._frozen_after_seconds = found.name, max_age, frozen_after
        self._capture = capture = Capture(found, view)
        # Also called for a camera that is not closed, when it is deleted and at the end of the process. A thread that
        # is inside OpenCV when Python ends would abort the process.
        self._close = weakref.finalize(self, capture.close)
        with capture.changed:
            capture.changed.wait_for(
                lambda: capture.frame is not None or capture.failure is not None,
                min(open_timeout, threading.TIMEOUT_MAX),
            )
            opened, failure = capture.frame is not None, capture.failure
        if not opened:
            self.close()
            raise CameraFailedError(f"{found.name}: {failure or _no_first_image(open_timeout)}")

    @property
    def name(self) -> str:
        """The camera in messages, such as "camera 0"."""
        return self._name

    @property
    def frames_per_second(self) -> float:
        """The measured rate of the last 60 images. It is 0 before the second image and while the camera has failed."""
        return self._capture.frames_per_second()

    def newest(self, timeout: float = 0.0) -> CameraFrame:
        """Return the newest image. If it is not usable, wait up to `timeout` seconds for one that is.

        Raises CameraFailedError if the newest image is older than `max_age`, or the camera shows the same image for
        longer than `frozen_after`, or was closed.
        """
        return self._usable(-math.inf, timeout)

    def wait_for_next(self, timeout: float | None = None, *, after: float | None = None) -> CameraFrame:
        """Wait for the first image that is read after the time `after`, and return it.

        `after` is a value of `time.monotonic()`, by default that of the call. A later one, such as
        `time.monotonic() + 0.1`, lets an action take effect. `timeout` is in seconds and starts at `after`. It is
        `max_age` by default.

        Raises CameraFailedError if there is no such image within `timeout`, and as `newest` does.
        """
        now = time.monotonic()
        start = now if after is None else after
        timeout = self._max_age_seconds if timeout is None else timeout
        return self._usable(start, timeout + max(start - now, 0))

    def close(self) -> None:
        """Release the camera and end its thread. If its driver hangs, this takes two seconds and a warning says so."""
        self._close()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _usable(self, after: float, timeout: float) -> CameraFrame:
        deadline = time.monotonic() + timeout
        capture = self._capture
        with capture.changed:
            while True:
                frame = capture.frame
                assert frame is not None  # the constructor has waited for it
                problem = self._problem(frame, after)
                if problem is None:
                    return frame
                left = deadline - time.monotonic()
                if left <= 0 or capture.over:
                    raise CameraFailedError(f"{self._name}: {problem}")
                capture.changed.wait(min(left, threading.TIMEOUT_MAX))

    def _problem(self, frame: CameraFrame, after: float) -> str | None:
        """Return why the newest image cannot be used, or None."""
        capture, age_seconds = self._capture, frame.age_seconds
        reason = capture.failure or "the driver has returned no other since; check the camera's cable and power"
        if not self._close.alive:
            return "it was closed; create another Camera"
        if age_seconds > self._max_age_seconds:
            limit = f"max_age={self._max_age_seconds:g}"
            return f"its newest image is {age_seconds:.2f} s old, more than {limit}, because {reason}"
        if frame.time_seconds <= after:
            return f"it has no image after the action, the newest is {age_seconds:.2f} s old, because {reason}"
        still_seconds = frame.time_seconds - capture.still_since_seconds
        if still_seconds > self._frozen_after_seconds:
            return (
                f"it has shown exactly the same image for {still_seconds:.2f} s, more than "
                f"frozen_after={self._frozen_after_seconds:g}; restart the camera, or use frozen_after=math.inf if "
                "its pictures can stand still"
            )
        return None


def _no_first_image(timeout: float) -> str:
    return f"it has returned no image within open_timeout={timeout:g} seconds; check its cable and power"
