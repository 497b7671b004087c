"""How one observation becomes the bytes of a row, and back.

A row holds several *views* of its observation and a sample decodes one of them: of a frame the views are its crops, of
latents the K that were encoded. So the row store has one path for frames and latents.
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
"""Codecs of latents that cannot do without real rows to be calibrated on."""
LATENT_ELEMENT_BYTES = {"float32": 4.0, "float16": 2.0, **{name: bits / 8 for name, bits in BITS.items()}}
"""Bytes of one latent element, the paper's 4 generalized (Section 4.2)."""


def frame_codec(shape: tuple[int, ...], crop_size: tuple[int, int] | None = None) -> FrameCodec:
    """Raw frames of `shape`, seen whole or under crops of `crop_size`. Raises ValueError for a crop that is larger."""
    height, width = shape[-2:]
    return FrameCodec(shape, Crop((height, width), crop_size or (height, width)))


def latent_codec(name: str, view_shape: tuple[int, ...], augmentations: int = 1, ledger: Ledger | None = None) -> Codec:
    """The codec `name` for K = `augmentations` latents of `view_shape` a row.

    Without a `ledger`, as for a plan, its own memory is counted nowhere. Raises ValueError for an unknown name.
    """
    if name not in LATENT_ELEMENT_BYTES:
        raise ValueError(f"unknown codec {name!r}; choose one of {', '.join(LATENT_ELEMENT_BYTES)}")
    if name in BITS:
        return IntegerCodec(name, view_shape, augmentations, Ledger({}) if ledger is None else ledger)
    return FloatCodec(name, view_shape, augmentations)
