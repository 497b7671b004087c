"""Record the frames that a policy sees as a video."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.envs.environment import Frame
from seer_edge.errors import BadInputError
from seer_edge.validation import check_target

LOG = logging.getLogger(__name__)
SIDE = 336
"""Height or width, in pixels, up to which the shorter side of a frame is enlarged by an integer factor."""
FRAMES_PER_SECOND = 15.0
"""Agent steps a second in the video: Atari's speed."""
FORMAT = "mp4v"


class VideoError(Exception):
    """A video cannot be written."""


class Recorder:
    """Writer of a video from frames of one shape.

    A video that cannot be written is reported by one warning. The recorded work continues.
    """

    def __init__(self, path: Path, *, episodes: int | None = None) -> None:
        """Write a hidden file beside `path`, to which `publish` renames it.

        Frames after the first `episodes` episodes are left out; None records all.
        """
        self._path = path
        self._episodes_left = episodes
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: Any = None
        self._frames = 0
        self._failed = False

    def show(self, frame: Frame) -> None:
        """Append a frame, uint8 `[H, W]` or `[3, H, W]`."""
        if self._failed or self._episodes_left == 0:
            return
        height, width = frame.shape[-2:]
        factor = max(1, SIDE // min(height, width))
        if self._writer is None:
            try:
                self._writer = _open(self._partial, (width * factor, height * factor))
            except VideoError as error:
                self._fail(str(error))
                return
        pixels = np.stack([frame] * 3) if frame.ndim == 2 else frame[::-1]
        image = pixels.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
        self._writer.write(np.ascontiguousarray(image))
        self._frames += 1

    def end_episode(self) -> None:
        """Take the end of an episode."""
        if self._episodes_left:
            self._episodes_left -= 1

    def publish(self) -> bool:
        """Finish the video and rename it to its path. Return False, after a warning, if it is not complete."""
        if self._failed or self._writer is None:
            return False
        self._writer.release()
        self._writer = None
        try:
            # OpenCV does not report that a write failed, as on a full disk. The index at the end is then missing.
            found = _count_frames(self._partial)
            if found != self._frames:
                raise VideoError(f"only {found:,} of {self._frames:,} frames could be written; is the disk full?")
            self._partial.replace(self._path)
        except (VideoError, OSError) as error:
            self._fail(str(error))
            return False
        return True

    def discard(self) -> None:
        """Remove the hidden file, if there is one."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _fail(self, reason: str) -> None:
        self._failed = True
        self.discard()
        LOG.warning("%s: no video (%s)", self._path, reason)

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: Path | None) -> "Iterator[Recorder | None]":
        """Context manager: a recorder whose finished video appears at `path` at the end; None where `path` is None.

        Raises BadInputError unless `path` is a .mp4 file in an existing folder.
        """
        if path is None:
            yield None
            return
        if path.suffix != ".mp4" or not path.parent.is_dir():
            raise BadInputError(f"--record {path}: not a .mp4 file in an existing folder; use another path")
        check_target("--record", path)
        recorder = cls(path)
        try:
            yield recorder
            recorder.publish()
        finally:
            recorder.discard()


def _open(path: Path, size: tuple[int, int]) -> Any:
    """Return OpenCV's writer of frames of `size`, width and height in pixels. Raises VideoError."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*FORMAT), FRAMES_PER_SECOND, size, True)
    if not writer.isOpened():
        raise VideoError(f"OpenCV cannot write it: no {FORMAT} encoder, or {path.parent} cannot be written")
    return writer


def _count_frames(path: Path) -> int:
    """Return the number of frames in a video, 0 if it cannot be read."""
    import cv2

    reader = cv2.VideoCapture(str(path))
    try:
        return int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    finally:
        reader.release()
