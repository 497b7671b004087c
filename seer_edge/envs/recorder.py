"""Record the frames that a policy sees as a video."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.envs.environment import Frame
from seer_edge.errors import BadInputError
from seer_edge.validation import check_target

SIDE = 336
"""Height or width, in pixels, up to which the shorter side of a frame is enlarged by an integer factor."""
FRAMES_PER_SECOND = 15.0
"""Agent steps a second in the video: Atari's speed."""
FORMAT = "mp4v"


class Recorder:
    """Writer of a video from frames of one shape."""

    def __init__(self, path: Path, *, name: Path | None = None) -> None:
        """Write to `path`; messages show `name` where it is given."""
        self._path, self._name = path, name or path
        self._writer: Any = None

    def show(self, frame: Frame) -> None:
        """Append a frame, uint8 `[H, W]` or `[3, H, W]`. Raises BadInputError where OpenCV cannot write the file."""
        import cv2

        height, width = frame.shape[-2:]
        factor = max(1, SIDE // min(height, width))
        if self._writer is None:
            size = (width * factor, height * factor)
            self._writer = cv2.VideoWriter(
                str(self._path), cv2.VideoWriter.fourcc(*FORMAT), FRAMES_PER_SECOND, size, True
            )
            if not self._writer.isOpened():
                raise BadInputError(
                    f"--record {self._name}: OpenCV cannot write it (no {FORMAT} encoder, or no such folder); "
                    "use another .mp4 file, or leave --record out"
                )
        pixels = np.stack([frame] * 3) if frame.ndim == 2 else frame[::-1]
        image = pixels.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
        self._writer.write(np.ascontiguousarray(image))

    def close(self) -> None:
        """Finish the video file."""
        if self._writer is not None:
            self._writer.release()

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
        partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        recorder = cls(partial, name=path)
        try:
            yield recorder
            recorder.close()
            partial.replace(path)
        finally:
            recorder.close()
            partial.unlink(missing_ok=True)
