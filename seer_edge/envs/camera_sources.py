"""The sources of a camera's images: a device, a video file, picamera2, or an object with OpenCV's `read`."""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seer_runtime.policy.pictures import shown_value

_FRAMES_PER_SECOND_MAX = 1_000
_PI_SIZE = (640, 480)


class SourceError(Exception):
    """A source has no image. The message says why in one line, and what to do."""


class VideoEndError(SourceError):
    """A video file has no more images."""


class Reader(Protocol):
    """An opened source with OpenCV's `read`. A method `release` is optional."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next image. Return True and the image (blue, green, red), or False and anything."""
        ...


@dataclass(frozen=True)
class Source:
    """A place that images come from.

    Attributes:
        name: the source in messages, such as "camera 0".
        open: opens the source. May raise any exception, and SourceError with a message for users.
        close: called once, when the camera is closed.
        is_video: whether it is a file, which plays a recording.

    """

    name: str
    open: Callable[[], Reader]
    close: Callable[[], object] = tuple
    is_video: bool = False


def find_source(source: object, *, loop: bool) -> Source:
    """Return the source that `source` names. `loop` plays a video file again from its start.

    Raises ValueError for anything that is no source, and for `loop` without a video file.
    """
    found = _find(source, loop)
    if loop and not found.is_video:
        raise ValueError(f"loop=True is for video files, and {found.name} is not one; leave it out")
    return found


def _find(source: object, loop: bool) -> Source:
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        return Source(f"camera {source}", lambda: _open_device(source, Path(f"/dev/video{source}")))
    if source == "picamera2":
        return Source("camera picamera2", _PiCamera)
    if isinstance(source, str | Path) and str(source).startswith("/dev/"):
        return Source(f"camera {source}", lambda: _open_device(str(source), Path(source)))
    if isinstance(source, str | Path) and str(source):
        return Source(f"video {source}", lambda: _Video(Path(source), loop), is_video=True)
    if callable(getattr(source, "read", None)):
        reader: Any = source
        return Source(f"camera {type(source).__name__}", lambda: _Borrowed(reader), lambda: release(reader))
    if callable(source):
        return Source(f"camera {getattr(source, '__name__', type(source).__name__)}", source)
    raise ValueError(
        f"{shown_value(source)} is not a camera; use a number, a path, 'picamera2', an object with read(), or a "
        "function that returns one"
    )


def release(reader: Reader) -> None:
    """Call the method `release` of the reader, if it has one, and ignore its errors."""
    with contextlib.suppress(Exception):  # the device may be gone
        getattr(reader, "release", tuple)()


def _open_device(source: int | str, path: Path) -> Reader:
    import cv2

    linux = sys.platform == "linux"
    if linux and not path.exists():  # OpenCV would only print several lines
        raise SourceError(f"there is no {path}; check its cable and its number")
    capture = cv2.VideoCapture(source, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
    if not capture.isOpened():
        raise SourceError("OpenCV cannot open it; check that it is a camera and that no other program uses it")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # after a pause of the thread, the driver keeps one old image only
    opened: Reader = capture
    return opened


class _Video:
    """A video file at its own frame rate. `read` sleeps until the next image is due."""

    def __init__(self, path: Path, loop: bool) -> None:
        import cv2

        if not path.is_file():
            raise SourceError("there is no such file; check the path")
        self._path, self._loop = str(path), loop
        self._capture = cv2.VideoCapture(self._path)
        if not self._capture.isOpened():
            raise SourceError("OpenCV cannot read it; check that it is a video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate <= _FRAMES_PER_SECOND_MAX:
            raise SourceError(f"its frame rate is {rate:g}; convert it, for example with ffmpeg -i OLD -r 30 NEW")
        self._period_seconds = 1 / rate
        self._due = time.monotonic() - self._period_seconds

    def read(self) -> tuple[bool, Any]:
        answered, image = self._capture.read()
        if not answered and self._loop:
            self._capture.open(self._path)  # not every format can seek
            answered, image = self._capture.read()
        if not answered:
            raise VideoEndError("the video has ended; use loop=True to play it again")
        now = time.monotonic()
        self._due = max(self._due + self._period_seconds, now)  # after a pause of the process nothing is skipped
        time.sleep(self._due - now)
        return True, image

    def release(self) -> None:
        self._capture.release()


class _PiCamera:
    """The camera of a Raspberry Pi, through picamera2."""

    def __init__(self) -> None:
        try:
            from picamera2 import Picamera2
        except ImportError as error:
            raise SourceError(
                f"the package picamera2 cannot be imported ({error}); install it with sudo apt install "
                "python3-picamera2, and create the virtual environment with --system-site-packages"
            ) from error
        self._camera = Picamera2()
        try:
            # "RGB888" means blue, green, red in memory. Without a queue, an image is never older than the request.
            main = {"size": _PI_SIZE, "format": "RGB888"}
            self._camera.configure(self._camera.create_video_configuration(main=main, queue=False))
            self._camera.start()
        except BaseException:
            self._camera.close()
            raise

    def read(self) -> tuple[bool, Any]:
        return True, self._camera.capture_array("main")

    def release(self) -> None:
        self._camera.stop()
        self._camera.close()


class _Borrowed:
    """An object of the user, which stays open while it has no images."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self) -> tuple[bool, Any]:
        return self._reader.read()
