"""Pictures as Gymnasium environments observe them, and their conversion to screens uint8 [H, W], [H, W, 1 or 3]."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.checks import shown
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.policy.preprocess import Frame, is_screen

Space = gymnasium.Space[Any]


class NoPictureError(ValueError):
    """A space has no usable picture. The message says why and what to return instead."""


@dataclass(frozen=True)
class Picture:
    """Where the picture is in an observation, and how its values become a screen.

    Attributes:
        path: keys that lead to the picture in nested dictionaries and tuples; empty if it is the observation itself.
        shape: shape of the array.
        dtype: its dtype.
        low: value that becomes 0.
        high: value that becomes 255.

    """

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float = 0.0
    high: float = 255.0

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

    def screen(self, observation: Any) -> Frame:
        """Return the screen of an observation. Raises EnvironmentFailedError if its picture has another type."""
        for key in self.path:
            try:
                observation = observation[key]
            except (LookupError, TypeError) as error:
                raise EnvironmentFailedError(f"the observation has no {key!r}: it is {shown(observation)}") from error
        array = np.asarray(observation)
        floats = array.dtype.kind == self.dtype.kind == "f"
        if array.shape != self.shape or not (floats or array.dtype == self.dtype):
            raise EnvironmentFailedError(
                f"the picture is {array.dtype} {list(array.shape)}, not {self.dtype} {list(self.shape)} as declared"
            )
        if self.channels_first:
            array = array.transpose(1, 2, 0)
        elif array.shape[2:] == (4,):
            array = array[:, :, :3]
        return self._scaled(array)

    def _scaled(self, array: NDArray[Any]) -> Frame:
        if array.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return np.ascontiguousarray(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EnvironmentFailedError("the picture has values that are not finite")
        values = (array.astype(np.float32) - self.low) * (255 / (self.high - self.low))
        return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def find_picture(space: Space, key: str | None = None) -> Picture:
    """Return the picture that `space` observes; `key` names one in a dictionary, nested ones as "outer/inner".

    Raises NoPictureError if there is none, or if there are several and `key` is None.
    """
    named = {"/".join(map(str, path)): (path, part) for path, part in _parts(space, ())}
    if key is not None:
        if list(named) == [""]:
            raise NoPictureError(f"observes {_line(space)}, which is not a dictionary; leave --obs-key out")
        if key not in named:
            raise NoPictureError(f"observes no {key!r}; use --obs-key with one of {', '.join(named)}")
        path, part = named[key]
        return _picture(part, path)
    found, reasons = {}, []
    for name, (path, part) in named.items():
        try:
            found[name] = _picture(part, path)
        except NoPictureError as error:
            reasons.append(str(error))
    if len(found) > 1:
        raise NoPictureError(f"observes several pictures; use --obs-key with one of {', '.join(found)}")
    if not found:
        raise NoPictureError(reasons[0] if len(reasons) == 1 else f"observes {_line(space)}, which has no picture")
    return next(iter(found.values()))


def rendered_picture(screen: Any) -> Picture:
    """Return the picture that an environment renders. Raises NoPictureError for anything but uint8 images."""
    if not isinstance(screen, np.ndarray) or screen.dtype != np.uint8 or not _is_picture(screen.shape):
        raise NoPictureError(f"renders {shown(screen)} as rgb_array, not uint8 [H, W, 3]")
    return Picture((), screen.shape, screen.dtype)


def _parts(space: Space, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Space]]:
    """Yield the spaces inside dictionaries and tuples, with the keys that lead to them."""
    if isinstance(space, gymnasium.spaces.Dict):
        inner: Any = space.spaces.items()
    elif isinstance(space, gymnasium.spaces.Tuple):
        inner = enumerate(space.spaces)
    else:
        yield path, space
        return
    for key, part in inner:
        yield from _parts(part, (*path, key))


def _picture(space: Space, path: tuple[str | int, ...]) -> Picture:
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype is None or space.dtype.kind not in "uif":
        raise NoPictureError(f"observes {_line(space)}, not images")
    if not _is_picture(space.shape):
        raise NoPictureError(f"observes {_line(space)}, {_what_is_wrong(space.shape)}")
    low, high = float(space.low.min()), float(space.high.max())
    if not np.isfinite([low, high]).all() or low >= high:
        raise NoPictureError(
            f"observes {_line(space)}, whose values have no range; declare the bounds of its pixels, such as 0 and 255"
        )
    return Picture(path, space.shape, space.dtype, low, high)


def _is_picture(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (_channels_last(shape) or (len(shape) == 3 and shape[0] in (1, 3)))


def _channels_last(shape: tuple[int, ...]) -> bool:
    return is_screen(shape) or (len(shape) == 3 and shape[2] == 4)


def _what_is_wrong(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and min(shape) > 0:
        return (
            "which is neither an image nor a channel-first image; if these are stacked frames, return the newest one, "
            "because seer-edge stacks frames"
        )
    return "not images [H, W], [H, W, 1], [H, W, 3], [H, W, 4] or [C, H, W]"


def _line(value: object) -> str:
    return " ".join(str(value).split())
