"""A video of the frames that a policy sees."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.envs import Frame
from seer_edge.errors import BadInputError
from seer_edge.validation import check_target

SIDE = 336
"""Pixels that the shorter side of a frame is enlarged to, by a whole factor."""
FRAMES_PER_SECOND = 15.0
"""Of the agent's steps: Atari's pace."""
FORMAT = "mp4v"


class Recorder:
    """Writes frames of one shape to a video. Raises BadInputError where OpenCV cannot."""

    def __init__(self, path: Path, *, name: Path | None = None) -> None:
        """`name` is what the user calls the file."""
        self._path, self._name = path, name or path
        self._writer: Any = None

    def show(self, frame: Frame) -> None:
        """Write a frame, uint8 [H, W] or [3, H, W]."""
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
                    f"--record {self._name}: this OpenCV cannot write it (no {FORMAT} encoder, or no such folder); "
                    "name a .mp4 file, or leave it out"
                )
        pixels = np.stack([frame] * 3) if frame.ndim == 2 else frame[::-1]
        image = pixels.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
        self._writer.write(np.ascontiguousarray(image))

    def close(self) -> None:
        """End the video."""
        if self._writer is not None:
            self._writer.release()

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: Path | None) -> "Iterator[Recorder | None]":
        """A recorder to `path`, which appears whole at the end; None for no path."""
        if path is None:
            yield None
            return
        if path.suffix != ".mp4" or not path.parent.is_dir():
            raise BadInputError(f"--record {path}: not a .mp4 file in a folder that exists; name another")
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
