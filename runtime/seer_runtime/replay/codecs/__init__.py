"""Codecs convert an observation to the bytes of a row and back.

A row offers several *views* of its observation, and a sample decodes one of them. The views of a frame are its crops.
The views of a latent row are the K latents that it stores. So the row store treats frames and latents alike.

May import `crops.py`, `durable` and `system`. Start with `codec.py` (the protocol of a codec).
"""

from collections.abc import Callable
from dataclasses import dataclass

from seer_runtime.replay.codecs.codec import Codec, Views
from seer_runtime.replay.codecs.frames import FRAMES, FrameCodec
from seer_runtime.replay.codecs.integers import BITS, IntegerCodec
from seer_runtime.replay.codecs.latents import FloatCodec, Latents
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Ledger
from seer_runtime.system.registry import add_entry

__all__ = [
    "FRAMES",
    "LATENT_CODECS",
    "Codec",
    "FloatCodec",
    "FrameCodec",
    "IntegerCodec",
    "LatentCodec",
    "Latents",
    "Views",
    "frame_codec",
    "latent_codec",
    "register_codec",
]


@dataclass(frozen=True)
class LatentCodec:
    """One codec of latents.

    Attributes:
        build: called as `build(name, view_shape, augmentations, ledger)`. It allocates its memory through the ledger.
        element_bytes: bytes of one latent element. The paper always uses 4 (Chen et al. 2021, Section 4.2).
        calibrated: whether it needs `calibrate` with real rows before it encodes.

    """

    build: Callable[[str, tuple[int, ...], int, Ledger], Codec]
    element_bytes: float
    calibrated: bool = False


LATENT_CODECS: dict[str, LatentCodec] = {}
"""Every codec of latents by name, the widest first."""


def register_codec(
    name: str,
    build: Callable[[str, tuple[int, ...], int, Ledger], Codec],
    *,
    element_bytes: float,
    calibrated: bool = False,
) -> None:
    """Add the codec `name` (see `LatentCodec`). Raises ValueError for a name in use or a size not above 0."""
    if not element_bytes > 0:
        raise ValueError(f"codec {name!r}: element_bytes must be above 0, not {element_bytes}")
    add_entry(LATENT_CODECS, "codec", name, LatentCodec(build, element_bytes, calibrated))
    widest_first = sorted(LATENT_CODECS.items(), key=lambda entry: -entry[1].element_bytes)
    LATENT_CODECS.clear()
    LATENT_CODECS.update(widest_first)


def _float_codec(name: str, view_shape: tuple[int, ...], augmentations: int, ledger: Ledger) -> FloatCodec:
    return FloatCodec(name, view_shape, augmentations)


register_codec("float32", _float_codec, element_bytes=4)
register_codec("float16", _float_codec, element_bytes=2)
for _name, _bits in BITS.items():
    register_codec(_name, IntegerCodec, element_bytes=_bits / 8, calibrated=True)


def frame_codec(shape: tuple[int, ...], crop_size: tuple[int, int] | None = None) -> FrameCodec:
    """Return the codec of raw frames of `shape`, with crops of `crop_size` or whole frames as views.

    Raises ValueError if the crop does not fit the frame.
    """
    height, width = shape[-2:]
    return FrameCodec(shape, Crop((height, width), crop_size or (height, width)))


def latent_codec(name: str, view_shape: tuple[int, ...], augmentations: int = 1, ledger: Ledger | None = None) -> Codec:
    """Return the codec `name` for rows of K = `augmentations` latents of `view_shape`.

    `ledger` counts the memory of the codec. A plan passes none. Raises ValueError for an unknown name, and BudgetError
    if the ledger has no room.
    """
    if name not in LATENT_CODECS:
        raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(LATENT_CODECS)}")
    return LATENT_CODECS[name].build(name, view_shape, augmentations, Ledger({}) if ledger is None else ledger)
