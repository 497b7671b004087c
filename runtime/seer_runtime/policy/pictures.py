"""Pictures as environments observe them, and their conversion to screens. Training and acting share this code."""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.policy.preprocess import Frame, Resize, is_screen, to_frame
from seer_runtime.system.manifest_reader import TEXT_MAX, ManifestReader, shown

PICTURE_DTYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
)
SIDE_MAX = 65_536
DEPTH_MAX = 16
BOUND_MAX = 1e9
"""Limit on the bounds of a picture's values. Larger ones are those of the dtype, not of the pixels."""

OnOutside = Callable[[float, float], object]
"""Receives the least and the greatest value of a picture that has values outside its bounds."""


class PictureError(ValueError):
    """An observation is not as declared."""


@dataclass(frozen=True)
class Picture:
    """Where the picture is in an observation, and how its values become a screen. Raises ValueError.

    Attributes:
        path: keys that lead to the picture in nested dictionaries and tuples; empty if it is the observation itself.
        shape: shape of the array: [H, W], [H, W, 1], [H, W, 3], [H, W, 4], [1, H, W] or [3, H, W].
        dtype: name of its dtype.
        low: value that becomes 0.
        high: value that becomes 255.

    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if not is_picture(self.shape):
            raise ValueError(f"the shape {list(self.shape)} is not that of a picture")
        if not -BOUND_MAX <= self.low < self.high <= BOUND_MAX:
            raise ValueError(f"the bounds {self.low:g} and {self.high:g} are no range of pixels")

    @property
    def plain(self) -> bool:
        """Whether an observation is already a screen."""
        as_screen = (self.dtype, self.low, self.high) == ("uint8", 0, 255) and is_screen(self.shape)
        return as_screen and not self.path

    @property
    def channels_first(self) -> bool:
        """Whether the shape is [1, H, W] or [3, H, W]."""
        return not _channels_last(self.shape)

    @property
    def screen_shape(self) -> tuple[int, ...]:
        """Shape of the screens: [H, W], [H, W, 1] or [H, W, 3]."""
        if self.channels_first:
            return (*self.shape[1:], self.shape[0])
        return (*self.shape[:2], 3) if self.shape[2:] == (4,) else self.shape

    def found_in(self, observation: Any) -> NDArray[Any]:
        """Return the picture in an observation, without a copy. Raises PictureError unless it is as declared."""
        for key in self.path:
            try:
                observation = observation[key]
            except (LookupError, TypeError) as error:
                raise PictureError(f"the observation has no {key!r}: it is {shown_value(observation)}") from error
        try:
            array = np.asarray(observation)
        except ValueError:  # nested lists of different lengths
            array = np.asarray(None)
        if array.shape != self.shape or not self._takes(array.dtype):
            found = shown_value(array if array.dtype.kind in "biuf" else observation)
            raise PictureError(f"the picture is {found}, not {self.dtype} {list(self.shape)} as declared")
        return array

    def _takes(self, dtype: np.dtype[Any]) -> bool:
        declared = np.dtype(self.dtype)
        binary = (self.low, self.high) == (0, 1) and {dtype.kind, declared.kind} <= set("biu")
        return dtype == declared or dtype.kind == declared.kind == "f" or binary

    def screen(self, observation: Any, on_outside: OnOutside | None = None) -> Frame:
        """Return the screen of an observation. Raises PictureError if its picture is not as declared or not finite.

        Values outside the bounds are clipped. If there are any, `on_outside` is called.
        """
        array = self.found_in(observation)
        if self.channels_first:
            array = array.transpose(1, 2, 0)
        elif array.shape[2:] == (4,):
            array = array[:, :, :3]
        return self._scaled(array, on_outside)

    def _scaled(self, array: NDArray[Any], on_outside: OnOutside | None) -> Frame:
        if array.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return np.ascontiguousarray(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PictureError("the picture has values that are not finite")
        values = (array.astype(np.float32) - self.low) * (255 / (self.high - self.low))
        if on_outside is not None and (values.min() < -0.5 or values.max() > 255.5):
            on_outside(float(array.min()), float(array.max()))
        return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)

    def to_frame(self, observation: Any, frame_shape: tuple[int, ...], how: Resize) -> Frame:
        """Convert an observation to a frame as in training.

        An observation has this picture, with its shape and dtype, and integers within its bounds. Anything else is
        converted by `preprocess.to_frame`. Raises ValueError if that is impossible too.
        """
        try:
            array = self.found_in(observation)
            if array.dtype.kind != "f" and (array.min() < self.low or array.max() > self.high):
                raise PictureError(f"it has values from {array.min()} to {array.max()}")
        except PictureError as error:
            try:
                return to_frame(observation, frame_shape, how)
            except ValueError as second:
                raise ValueError(f"expected an observation with the picture {self}, but {error}; {second}") from error
        return to_frame(self.screen(observation), frame_shape, how)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a manifest that `read_picture` reads."""
        return {
            "path": list(self.path),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "low": self.low,
            "high": self.high,
        }

    def __str__(self) -> str:
        at = f" at {'/'.join(map(str, self.path))!r}" if self.path else ""
        return f"{self.dtype} {list(self.shape)} from {self.low:g} to {self.high:g}{at}"


def read_picture(record: Mapping[str, Any], field: str) -> Picture | None:
    """Read what `to_json` wrote into `record["picture"]`; None if there is no such entry.

    `field` is the path of `record` in its manifest. Raises ValueError that names the invalid field.
    """
    if "picture" not in record:
        return None
    name = f"{field}.picture"
    fields = ManifestReader({field: {"picture": record["picture"]}})
    fields.record(name, ("path", "shape", "dtype", "low", "high"))
    path = fields.value(f"{name}.path")
    if not isinstance(path, list) or len(path) > DEPTH_MAX or not all(map(_is_key, path)):
        raise ValueError(f"{name}.path is {shown(path)}, not a list of keys")
    low, high = (fields.number(f"{name}.{bound}", -BOUND_MAX, BOUND_MAX) for bound in ("low", "high"))
    shape, dtype = fields.counts(f"{name}.shape", SIDE_MAX), fields.choice(f"{name}.dtype", PICTURE_DTYPES)
    try:
        return Picture(tuple(path), shape, dtype, low, high)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _is_key(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and len(key) <= TEXT_MAX)


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be a picture: a screen, one with alpha, or one with the channels first."""
    return 0 not in shape and (_channels_last(shape) or (len(shape) == 3 and shape[0] in (1, 3)))


def _channels_last(shape: tuple[int, ...]) -> bool:
    return is_screen(shape) or (len(shape) == 3 and shape[2] == 4)


def shown_value(value: Any) -> str:
    """Describe `value` for a message: dtype and shape of an array, else its type and repr on one line."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"
