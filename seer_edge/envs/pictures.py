"""Find the picture in the observations of a Gymnasium environment."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from seer_runtime.policy.pictures import BOUND_MAX, PICTURE_DTYPES, Picture, is_picture, shown_value

Space = gymnasium.Space[Any]


class NoPictureError(ValueError):
    """A space has no usable picture. The message says why and what to return instead."""


def find_picture(space: Space, key: str | None = None) -> Picture:
    """Return the picture that `space` observes; `key` names one in a dictionary, nested ones as "outer/inner".

    Raises NoPictureError if there is none, or if there are several and `key` is None.
    """
    parts = [("/".join(map(str, path)), path, part) for path, part in _parts(space, ())]
    named = {name: (path, part) for name, path, part in parts}
    if len(named) < len(parts):
        [(name, _)] = Counter(name for name, _, _ in parts).most_common(1)
        raise NoPictureError(f"observes two parts with the key {name!r}; rename one of them")
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
    if not isinstance(screen, np.ndarray) or screen.dtype != np.uint8 or not is_picture(screen.shape):
        raise NoPictureError(f"renders {shown_value(screen)} as rgb_array, not uint8 [H, W, 3]")
    return Picture((), screen.shape, "uint8")


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
    boxed = isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.MultiBinary)
    if not boxed or str(space.dtype) not in PICTURE_DTYPES:
        raise NoPictureError(f"observes {_line(space)}, not images")
    shape = space.shape or ()
    if not is_picture(shape):
        raise NoPictureError(f"observes {_line(space)}, {_what_is_wrong(shape)}")
    low, high = 0.0, 1.0
    if isinstance(space, gymnasium.spaces.Box):
        low, high = float(space.low.min()), float(space.high.max())
    if not -_bound_max(space.dtype) < low < high < _bound_max(space.dtype):
        raise NoPictureError(
            f"observes {_line(space)}, whose values have no range; declare the bounds of its pixels, such as 0 and 255"
        )
    return Picture(path, shape, str(space.dtype), low, high)


def _bound_max(dtype: Any) -> float:
    return float(np.finfo(dtype).max) if dtype == np.float16 else BOUND_MAX


def _what_is_wrong(shape: tuple[int, ...]) -> str:
    if len(shape) in (3, 4) and min(shape) > 0:
        return (
            "which is neither an image nor a channel-first image; if these are stacked frames, return the newest one, "
            "because seer-edge stacks frames"
        )
    return "not images [H, W], [H, W, 1], [H, W, 3], [H, W, 4] or [C, H, W]"


def _line(value: object) -> str:
    return " ".join(str(value).split())
