"""From screens to the stacked frames an encoder sees: one path for training and for acting."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Color = Literal["gray", "rgb"]
COLORS: tuple[Color, ...] = ("gray", "rgb")


def to_gray(rgb: Frame) -> Frame:
    """Luminance (Rec. 601) of an RGB screen: uint8 [H, W, 3] to uint8 [H, W].

    Raises ValueError for another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB screen, uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    import cv2

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def resize(frame: Frame, size: tuple[int, int], out: Frame | None = None) -> Frame:
    """Area-resize a uint8 [H, W] or [H, W, 3] frame to `size` = (height, width), into `out` where it is given.

    A frame that already has the size is returned itself (copied where `out` is given, which is for [H, W] alone).
    Raises ValueError if `out` is not C-contiguous uint8 of that size.
    """
    if out is not None and (out.shape != size or out.dtype != np.uint8 or not out.flags.c_contiguous):
        raise ValueError(f"out must be C-contiguous uint8 {list(size)}, got {out.dtype} {list(out.shape)}")
    if frame.shape[:2] == size:
        if out is None:
            return frame
        np.copyto(out, frame)
        return out
    import cv2

    resized = cv2.resize(frame, size[::-1], dst=out, interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8) if out is None else out


def frame_shape(size: tuple[int, int], color: Color) -> tuple[int, ...]:
    """Of a frame of that height and width: [H, W] in gray, [3, H, W] in RGB."""
    return size if color == "gray" else (3, *size)


def screen_to_frame(screen: Frame, size: tuple[int, int], color: Color) -> Frame:
    """A uint8 screen [H, W], [H, W, 1] or RGB [H, W, 3] as a frame, in the color and area-resized to `size`.

    The frame is uint8 `frame_shape(size, color)`, C-contiguous, and never the screen's own memory.
    Raises ValueError for another shape or dtype.
    """
    if screen.dtype != np.uint8 or not is_screen(screen.shape):
        raise ValueError(f"expected a screen, uint8 [H, W], [H, W, 1 or 3], got {screen.dtype} {list(screen.shape)}")
    in_color = screen.shape[2:] == (3,)
    if in_color and color == "rgb":
        return np.array(resize(screen, size).transpose(2, 0, 1), np.uint8, order="C")
    gray = resize(to_gray(screen) if in_color else screen.reshape(screen.shape[:2]), size)
    if color == "rgb" or np.may_share_memory(gray, screen):
        return np.array(np.broadcast_to(gray, frame_shape(size, color)), np.uint8, order="C")
    return gray


def is_screen(shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape can be one: [H, W], [H, W, 1] or [H, W, 3]."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def pool_and_resize(
    older: Frame,
    newer: Frame,
    size: tuple[int, int],
    *,
    pooled: Frame | None = None,
    out: Frame | None = None,
) -> Frame:
    """The elementwise maximum of two uint8 [H, W] screens, then one area resize to `size` = (height, width).

    Consoles draw some sprites only on every second frame; the maximum shows them all. `pooled` [H, W], which may
    be one of the two screens, receives the maximum, and `out` the result; without them both are allocated.
    """
    return resize(np.maximum(older, newer, out=pooled), size, out)


class FrameStack:
    """The newest frames of one episode, oldest first, with zero frames before the first.

    `buffer` is uint8 [stack, *frame_shape] and belongs to the caller, who counts its bytes.
    Raises ValueError if its shape or dtype is another.
    """

    def __init__(self, stack: int, frame_shape: tuple[int, ...], buffer: Frame) -> None:
        if stack < 1:
            raise ValueError(f"a stack holds at least one frame, got {stack}")
        if buffer.shape != (stack, *frame_shape) or buffer.dtype != np.uint8:
            raise ValueError(
                f"expected a stack buffer of uint8 {[stack, *frame_shape]}, got {buffer.dtype} {list(buffer.shape)}"
            )
        self._buffer = buffer
        self._frame_shape = frame_shape

    @property
    def frames(self) -> Frame:
        """The buffer itself, uint8 [stack, *frame_shape]."""
        return self._buffer

    def push(self, frame: Frame, *, first: bool) -> Frame:
        """Copy `frame` in as the newest one; `first` starts an episode and blanks what was before.

        Returns the buffer itself, uint8 [stack, *frame_shape], which the next push overwrites.
        Raises ValueError if the frame's shape or dtype differs from the stack's.
        """
        if frame.shape != self._frame_shape or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a frame of uint8 {list(self._frame_shape)}, got {frame.dtype} {list(frame.shape)}"
            )
        buffer = self._buffer
        if first:
            buffer[:-1] = 0
        else:
            # One overlapping assignment would make numpy copy the whole stack aside.
            for i in range(len(buffer) - 1):
                buffer[i] = buffer[i + 1]
        buffer[-1] = frame
        return buffer
