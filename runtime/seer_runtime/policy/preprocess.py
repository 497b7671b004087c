"""From screens to the stacked frames an encoder sees: one path for training and for acting."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Color = Literal["gray", "rgb"]
COLORS: tuple[Color, ...] = ("gray", "rgb")
Resize = Literal["area", "bilinear"]
RESIZES: tuple[Resize, ...] = ("area", "bilinear")
"""How screens become frames; configurations, checkpoints and bundles record the name.

`area` takes the maximum of the last two screens and resizes it once by area, as Gymnasium and Dopamine do. `bilinear`
resizes each screen bilinearly and takes the maximum of the results, as the paper's code does.
"""


def to_gray(rgb: Frame) -> Frame:
    """Luminance (Rec. 601) of an RGB screen: uint8 [H, W, 3] to uint8 [H, W].

    Raises ValueError for another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected an RGB screen, uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    import cv2

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def to_frame(screen: Frame | tuple[Frame, Frame], frame_shape: tuple[int, ...], how: Resize = "area") -> Frame:
    """Turn a screen into a frame of uint8 `frame_shape`: (H, W) in gray, (3, H, W) in RGB.

    `screen` is uint8 [h, w], [h, w, 1] or RGB [h, w, 3], or a frame already. It may also be a pair of screens of one
    shape, the older first, which give one frame as `pool_and_resize` says. The result is C-contiguous unless it is
    the screen itself, whose memory it may share. Raises ValueError for another shape or dtype, and for no array.
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
    """The [h, w] or, where both are in color, [h, w, 3] of a screen. Raises ValueError for what is no screen."""
    if not isinstance(screen, np.ndarray):  # a caller of `Policy.act` need not have read the types
        raise ValueError(f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {type(screen).__name__}")
    if screen.dtype != np.uint8 or not is_screen(screen.shape):
        raise ValueError(
            f"expected a screen, uint8 [H, W], [H, W, 1] or [H, W, 3], got {screen.dtype} {list(screen.shape)}"
        )
    if screen.shape[2:] != (3,):
        return screen.reshape(screen.shape[:2])
    return screen if in_color else to_gray(screen)


def _pair(screens: tuple[Frame, Frame], *, in_color: bool) -> tuple[Frame, Frame]:
    """The images of two screens. Raises ValueError where they are not two of one shape."""
    images = [_image(screen, in_color=in_color) for screen in screens]
    if len(images) != 2 or images[0].shape != images[1].shape:
        raise ValueError(f"expected two screens of one shape, got {[list(image.shape) for image in images]}")
    return images[0], images[1]


def is_screen(shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape can be one: [H, W], [H, W, 1] or [H, W, 3], none of them 0."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def resize(frame: Frame, size: tuple[int, int], out: Frame | None = None, *, how: Resize = "area") -> Frame:
    """Resize a uint8 [H, W] or [H, W, 3] frame to `size` = (height, width), into `out` where it is given.

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
    """Make one frame of `size` = (height, width) of two uint8 [H, W] or [H, W, 3] screens.

    Consoles draw some sprites only on every second frame; the elementwise maximum shows them all. `area` takes the
    maximum of the screens and resizes it; `bilinear` resizes each screen and takes the maximum of the results.

    `pooled`, which may be one of the two screens, receives the maximum of the screens under `area` and is not used
    under `bilinear`. `out` receives the result. Without them both are allocated.
    """
    if how == "area":
        return resize(np.maximum(older, newer, out=pooled), size, out, how=how)
    first, second = resize(older, size, out, how=how), resize(newer, size, how=how)
    return np.maximum(first, second, out=None if first is older else first)


class FrameStack:
    """The newest frames of one scene, oldest first, with zero frames before the first.

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
        """Copy `frame` in as the newest one; `first` begins a scene and blanks what was before.

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
