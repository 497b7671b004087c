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


def to_frame(screen: Frame, frame_shape: tuple[int, ...]) -> Frame:
    """A screen as a frame of uint8 `frame_shape`: (H, W) in gray, (3, H, W) in RGB, area-resized to that size.

    `screen` is uint8 [h, w], [h, w, 1] or RGB [h, w, 3], or a frame already. The result is C-contiguous unless it is
    the screen itself, whose memory it may share. Raises ValueError for another shape or dtype, and for no array.
    """
    if not isinstance(screen, np.ndarray):  # a caller of `Policy.act` need not have read the types
        raise ValueError(f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {type(screen).__name__}")
    if screen.shape == frame_shape and screen.dtype == np.uint8:
        return screen
    if screen.dtype != np.uint8 or not is_screen(screen.shape):
        raise ValueError(
            f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {screen.dtype} {list(screen.shape)}"
        )
    size = frame_shape[-2], frame_shape[-1]
    in_color = screen.shape[2:] == (3,)
    if in_color and len(frame_shape) == 3:
        return np.ascontiguousarray(resize(screen, size).transpose(2, 0, 1))
    gray = resize(to_gray(screen) if in_color else screen.reshape(screen.shape[:2]), size)
    return gray if len(frame_shape) == 2 else np.ascontiguousarray(np.broadcast_to(gray, frame_shape))


def is_screen(shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape can be one: [H, W], [H, W, 1] or [H, W, 3], none of them 0."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


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
