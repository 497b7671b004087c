"""Preprocessing: convert screens to frames and stack them. Training and acting share this code."""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Color = Literal["gray", "rgb"]
COLORS: tuple[Color, ...] = ("gray", "rgb")
Resize = Literal["area", "bilinear"]
RESIZES: tuple[Resize, ...] = ("area", "bilinear")
"""Ways to resize screens to frames. Configurations, checkpoints and bundles record the name.

`area` takes the maximum of the last two screens and resizes it once by area, like Gymnasium and Dopamine. `bilinear`
resizes each screen bilinearly and takes the maximum of the results, like the code of the paper.
"""
GRAY_LEVELS = (16, 32, 64)
"""Numbers of gray levels that frames can be reduced to, for cameras whose low bits are noise."""


def to_gray(rgb: Frame) -> Frame:
    """Return the luminance (Rec. 601) of an RGB screen: uint8 [H, W, 3] to uint8 [H, W].

    Raises ValueError for another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB screen, uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    import cv2

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def to_frame(screen: Frame | tuple[Frame, Frame], frame_shape: tuple[int, ...], how: Resize = "area") -> Frame:
    """Convert a screen to a frame, uint8 of `frame_shape`: (H, W) in gray or (3, H, W) in RGB.

    `screen` is uint8 [h, w], [h, w, 1] or RGB [h, w, 3], or already a frame. It may also be a pair of screens of equal
    shape, the older first, which `pool_and_resize` combines. A frame is returned unchanged. Any other result is
    C-contiguous and may share the memory of the screen. Raises ValueError for another shape or dtype, and if `screen`
    is not an array.
    """
    size, in_color = (frame_shape[-2], frame_shape[-1]), len(frame_shape) == 3
    if isinstance(screen, tuple):
        older, newer = _pair(screen, in_color=in_color)
        image = pool_and_resize(older, newer, size, how)
    elif isinstance(screen, np.ndarray) and screen.shape == frame_shape and screen.dtype == np.uint8:
        return screen
    else:
        image = resize(_image(screen, in_color=in_color), size, how=how)
    if image.ndim == 3:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    return np.ascontiguousarray(np.broadcast_to(image, frame_shape)) if in_color else image


def _image(screen: Frame, *, in_color: bool) -> Frame:
    """Return the screen as [h, w], or as [h, w, 3] if it is RGB and `in_color` is true.

    Raises ValueError if it is not a screen.
    """
    if not isinstance(screen, np.ndarray):  # callers of `Policy.act` may pass anything
        raise ValueError(f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {type(screen).__name__}")
    if screen.dtype != np.uint8 or not is_screen(screen.shape):
        raise ValueError(
            f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {screen.dtype} {list(screen.shape)}"
        )
    if screen.shape[2:] != (3,):
        return screen.reshape(screen.shape[:2])
    return screen if in_color else to_gray(screen)


def _pair(screens: tuple[Frame, Frame], *, in_color: bool) -> tuple[Frame, Frame]:
    """Return the images of two screens. Raises ValueError unless there are two of equal shape."""
    images = [_image(screen, in_color=in_color) for screen in screens]
    if len(images) != 2 or images[0].shape != images[1].shape:
        raise ValueError(f"expected two screens of equal shape, got {[list(image.shape) for image in images]}")
    return images[0], images[1]


def is_screen(shape: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be a screen: [H, W], [H, W, 1] or [H, W, 3], without a size of 0."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def resize(frame: Frame, size: tuple[int, int], out: Frame | None = None, *, how: Resize = "area") -> Frame:
    """Resize a uint8 frame, [H, W] or [H, W, 3], to `size` = (height, width).

    If the frame already has this size, return the frame itself. If `out` is given, write the result to it and return
    `out`. This is possible for [H, W] only. Raises ValueError if `out` is not C-contiguous uint8 of this size.
    """
    if out is not None and (out.shape != size or out.dtype != np.uint8 or not out.flags.c_contiguous):
        raise ValueError(f"out must be C-contiguous uint8 {list(size)}, got {out.dtype} {list(out.shape)}")
    if frame.shape[:2] == size:
        if out is None:
            return frame
        np.copyto(out, frame)
        return out
    import cv2

    interpolation = cv2.INTER_AREA if how == "area" else cv2.INTER_LINEAR
    resized = cv2.resize(frame, size[::-1], dst=out, interpolation=interpolation)
    return np.asarray(resized, np.uint8) if out is None else out


def pool_and_resize(
    older: Frame,
    newer: Frame,
    size: tuple[int, int],
    how: Resize = "area",
    *,
    pooled: Frame | None = None,
    out: Frame | None = None,
) -> Frame:
    """Combine two screens, uint8 [H, W] or [H, W, 3], to one frame of `size` = (height, width).

    Consoles draw some sprites only on every second screen, so the frame is the elementwise maximum of two. `area`
    resizes the maximum of the screens. `bilinear` resizes each screen and takes the maximum of the results.

    `out` receives the result. `pooled` receives the maximum of the screens; it may be one of the two screens, and
    `bilinear` ignores it. If they are None, new arrays are allocated.
    """
    if how == "area":
        return resize(np.maximum(older, newer, out=pooled), size, out, how=how)
    first, second = resize(older, size, out, how=how), resize(newer, size, how=how)
    return np.maximum(first, second, out=None if first is older else first)


def to_gray_levels(frame: Frame, levels: int, out: Frame | None = None) -> Frame:
    """Replace each byte of a frame, uint8 of any shape, by the nearest of `levels` evenly spaced values from 0 to 255.

    `levels` is one of GRAY_LEVELS. The channels of RGB frames are reduced one by one. A reduced frame stays as it is.
    If `out` is given, write the result to it and return `out`, which may be `frame` itself. Raises ValueError for
    another number of levels or another dtype.
    """
    if levels not in GRAY_LEVELS:
        raise ValueError(f"{levels} gray levels are not supported; choose one of {', '.join(map(str, GRAY_LEVELS))}")
    if frame.dtype != np.uint8:
        raise ValueError(f"expected a uint8 frame, got {frame.dtype} {list(frame.shape)}")
    # Without `mode`, numpy would write to a copy of `out` first.
    return np.take(_nearest_levels(levels), frame, out=out, mode="clip")


@cache
def _nearest_levels(levels: int) -> Frame:
    """Return the value for each byte, uint8 `[256]`. Rounding meets no ties, because 255 is odd."""
    steps = levels - 1
    index = (2 * np.arange(256) * steps + 255) // 510
    table = ((510 * index + steps) // (2 * steps)).astype(np.uint8)
    table.flags.writeable = False
    return table


class FrameStack:
    """The newest frames of a scene, the oldest first. Frames before the first of the scene are zero.

    `buffer` is uint8 [stack, *frame_shape]. The caller allocates it and counts its bytes. Raises ValueError for another
    shape or dtype, and for `stack` below 1.
    """

    def __init__(self, stack: int, frame_shape: tuple[int, ...], buffer: Frame) -> None:
        if stack < 1:
            raise ValueError(f"a stack needs at least one frame, got {stack}")
        if buffer.shape != (stack, *frame_shape) or buffer.dtype != np.uint8:
            raise ValueError(
                f"expected a stack buffer of uint8 {[stack, *frame_shape]}, got {buffer.dtype} {list(buffer.shape)}"
            )
        self._buffer = buffer
        self._frame_shape = frame_shape

    @property
    def frames(self) -> Frame:
        """The frames, uint8 [stack, *frame_shape]. This is the buffer itself, not a copy."""
        return self._buffer

    def push(self, frame: Frame, *, first: bool) -> Frame:
        """Add a copy of `frame` as the newest frame. `first` begins a scene: all older frames become zero.

        Return the buffer itself, uint8 [stack, *frame_shape], which the next call overwrites. Raises ValueError if the
        shape or dtype of the frame differs from the stack's.
        """
        if frame.shape != self._frame_shape or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a frame of uint8 {list(self._frame_shape)}, got {frame.dtype} {list(frame.shape)}"
            )
        buffer = self._buffer
        if first:
            buffer[:-1] = 0
        else:
            # For one overlapping assignment, numpy would copy the whole stack first.
            for i in range(len(buffer) - 1):
                buffer[i] = buffer[i + 1]
        buffer[-1] = frame
        return buffer
