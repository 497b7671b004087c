"""The thread of a camera, which reads and converts every image and keeps the newest one."""

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seer_edge.envs.camera_sources import Source, SourceError, VideoEndError, release
from seer_edge.errors import describe_error
from seer_runtime.policy.pictures import shown_value
from seer_runtime.policy.preprocess import Frame, is_screen, resize
from seer_runtime.system.process import start_thread

LOG = logging.getLogger(__name__)

_PAUSE_SECONDS = (0.1, 5.0)  # before the first and before late attempts to open a camera again
_PERIOD_MIN_SECONDS = 1 / 250  # an object whose `read` never waits must not occupy a core
_CLOSE_SECONDS = 2.0
_RATED_FRAMES = 60


@dataclass(frozen=True)
class CameraFrame:
    """One image of a camera.

    Attributes:
        image: uint8 [H, W] or RGB [H, W, 3]. Read-only.
        time_seconds: `time.monotonic()` when the image was read.
        number: 1 for the first image of the camera. Images that nobody asked for count, too.

    """

    image: Frame
    time_seconds: float
    number: int

    @property
    def age_seconds(self) -> float:
        """The time since the image was read."""
        return time.monotonic() - self.time_seconds


@dataclass(frozen=True)
class View:
    """The part of each image that is kept: `crop` (x, y, width, height), `size` (width, height), all in pixels.

    Raises ValueError for other numbers.
    """

    crop: Sequence[int] | None
    size: Sequence[int] | None
    gray: bool

    def __post_init__(self) -> None:
        if self.size is not None and not (_are_ints(self.size, 2) and min(self.size) > 0):
            raise ValueError(f"size={self.size!r}: not a positive width and height in pixels")
        if self.crop is not None and not (
            _are_ints(self.crop, 4) and min(self.crop[:2]) >= 0 and min(self.crop[2:]) > 0
        ):
            raise ValueError(f"crop={self.crop!r}: not x, y, width and height in pixels")

    def of(self, image: Any) -> Frame:
        """Return the view of an image, uint8 [H, W], [H, W, 1] or BGR [H, W, 3]. Raises SourceError for another."""
        import cv2

        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not is_screen(image.shape):
            raise SourceError(f"its image is {shown_value(image)}, not uint8 [H, W] or [H, W, 3]")
        part = image.reshape(image.shape[:2]) if image.shape[2:] == (1,) else image
        if self.crop is not None:
            x, y, width, height = self.crop
            if y + height > part.shape[0] or x + width > part.shape[1]:
                shown = f"{part.shape[1]}x{part.shape[0]}"
                raise SourceError(f"crop={self.crop} reaches outside of its image of {shown} pixels; use a smaller one")
            part = part[y : y + height, x : x + width]
        if self.gray and part.ndim == 3:  # before the resize, which then reads a third of the bytes
            part = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
        if self.size is not None:
            part = resize(part, (self.size[1], self.size[0]))
        if not self.gray:
            part = cv2.cvtColor(part, cv2.COLOR_GRAY2RGB if part.ndim == 2 else cv2.COLOR_BGR2RGB)
        if np.may_share_memory(part, image):  # the device may write its next image into the same memory
            part = part.copy()
        part.flags.writeable = False
        return part


def _are_ints(values: Any, count: int) -> bool:
    return isinstance(values, tuple | list) and len(values) == count and all(type(value) is int for value in values)


class Stillness:
    """The time since which the images of a camera are exactly the same, before they are cropped and resized.

    Usually some pixel of a coarse grid has changed, and nothing else is read. The checksum of all pixels is computed
    only while the grid stays the same.
    """

    _GRID = 8

    def __init__(self) -> None:
        self._grid: Frame | None = None
        self._checksum: int | None = None
        self.since_seconds = 0.0

    def see(self, image: Frame, now: float) -> None:
        """Compare `image` with the image before it. `now` is its time."""
        grid = image[:: self._GRID, :: self._GRID]
        if self._grid is None or not np.array_equal(grid, self._grid):
            self._grid, self._checksum, self.since_seconds = grid.copy(), None, now
            return
        checksum = zlib.crc32(np.ascontiguousarray(image).data)
        if checksum != self._checksum:
            self._checksum, self.since_seconds = checksum, now


class Capture:
    """A thread that reads a source until `close`, and opens a source again that has failed.

    Attributes, which `changed` guards:
        frame: the newest image, or None before the first one.
        still_since_seconds: the time of the first of the images that are equal to the newest one.
        failure: why the source has no images at present, or None.
        over: whether no image will follow: the video has ended, or the camera was closed.

    """

    def __init__(self, source: Source, view: View) -> None:
        self._source, self._view = source, view
        self.changed = threading.Condition()
        self.frame: CameraFrame | None = None
        self.still_since_seconds = 0.0
        self.failure: str | None = None
        self.over = False
        self._times: deque[float] = deque(maxlen=_RATED_FRAMES)
        self._stop, self._ended = threading.Event(), threading.Event()
        self._thread = 0
        start_thread(self._run)

    def frames_per_second(self) -> float:
        """Return the mean rate of the last 60 images, or 0 before the second one and after a failure."""
        with self.changed:
            times = list(self._times)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def close(self) -> None:
        """End the thread. One that hangs in its driver is left running, and ends with the process."""
        with self.changed:
            self.over, self.failure = True, "it was closed"
            self.changed.notify_all()
        self._stop.set()
        # The garbage collector may call this in the thread itself.
        if threading.get_ident() != self._thread and not self._ended.wait(_CLOSE_SECONDS):
            LOG.warning("%s: its driver does not answer, so its thread was not ended", self._source.name)

    def _run(self) -> None:
        self._thread = threading.get_ident()
        pause_seconds, pause_max_seconds = _PAUSE_SECONDS
        try:
            while not self._stop.is_set():
                number = self._number
                try:
                    self._read_until_failure()
                except BaseException as error:  # a user's object may raise anything
                    if isinstance(error, VideoEndError):
                        self._fail(str(error), over=True)
                        return
                    self._fail(str(error) if isinstance(error, SourceError) else describe_error(error))
                pause_seconds = _PAUSE_SECONDS[0] if self._number > number else pause_seconds
                self._stop.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, pause_max_seconds)
        finally:
            self._source.close()
            self._ended.set()

    def _read_until_failure(self) -> None:
        reader = self._source.open()
        try:
            stillness = Stillness()
            while not self._stop.is_set():
                answered, image = reader.read()
                now = time.monotonic()
                if not answered or image is None:
                    raise SourceError("it returns no image; check its cable and power")
                shown = self._view.of(image)
                stillness.see(image, now)
                self._publish(CameraFrame(shown, now, self._number + 1), stillness.since_seconds)
                left_seconds = now + _PERIOD_MIN_SECONDS - time.monotonic()
                if left_seconds > 0:
                    self._stop.wait(left_seconds)
        finally:
            release(reader)

    @property
    def _number(self) -> int:
        return 0 if self.frame is None else self.frame.number

    def _publish(self, frame: CameraFrame, still_since_seconds: float) -> None:
        with self.changed:
            before, returned = self.frame, self.failure is not None and not self.over
            self.frame, self.still_since_seconds = frame, still_since_seconds
            self._times.append(frame.time_seconds)
            if returned:
                self.failure = None
            self.changed.notify_all()
        if returned and before is not None:
            gap_seconds = frame.time_seconds - before.time_seconds
            LOG.warning("%s: it shows images again, after %.1f s without any", self._source.name, gap_seconds)

    def _fail(self, reason: str, *, over: bool = False) -> None:
        with self.changed:
            if self.over:
                return
            first = self.failure is None and self.frame is not None
            self.failure, self.over = reason, over
            self._times.clear()
            self.changed.notify_all()
        if first and not over:
            LOG.warning("%s: %s; trying to open it again", self._source.name, reason)
