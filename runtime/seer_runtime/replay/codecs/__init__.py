"""Codecs convert an observation to the bytes of a row and back.

A row offers several *views* of its observation, and a sample decodes one of them. The views of a frame are its crops.
The views of a latent row are the K latents that it stores. So the row store treats frames and latents alike.

May import `crops.py`, `durable` and `system`. Start with `codec.py` (the protocol of a codec).
"""

from seer_runtime.replay.codecs.codec import Codec, Views
from seer_runtime.replay.codecs.frames import FRAMES, FrameCodec
from seer_runtime.replay.codecs.integers import BITS, IntegerCodec
from seer_runtime.replay.codecs.latents import FloatCodec
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Ledger

__all__ = [
    "CALIBRATED",
    "FRAMES",
    "LATENT_ELEMENT_BYTES",
    "Codec",
    "FloatCodec",
    "FrameCodec",
    "IntegerCodec",
    "Views",
    "frame_codec",
    "latent_codec",
]

CALIBRATED = tuple(BITS)
"""Latent codecs that must be calibrated on real latents before use."""
LATENT_ELEMENT_BYTES = {"float32": 4.0, "float16": 2.0, **{name: bits / 8 for name, bits in BITS.items()}}
"""Bytes of one latent element by codec. The paper always uses 4 (Chen et al. 2021, Section 4.2)."""


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
    if name not in LATENT_ELEMENT_BYTES:
        raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(LATENT_ELEMENT_BYTES)}")
    if name in BITS:
        return IntegerCodec(name, view_shape, augmentations, Ledger({}) if ledger is None else ledger)
    return FloatCodec(name, view_shape, augmentations)
