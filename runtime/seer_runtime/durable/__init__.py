"""Durable files: atomic writes, streamed safetensors, and generations (checkpoints) that survive a power cut.

Everything the project wants to find again after a crash is written here. A file becomes visible by one rename
after its bytes are on the disk; a generation is a folder that becomes visible the same way, with a manifest of
sizes and SHA-256 sums by which a reader tells a sound one from a damaged one. A folder has one writer process
at a time: a second writer makes the first one fail, it never mixes bytes with it.

All changes to the disk go through the steps in `files`, so that a test can make any one of them fail.
"""

from seer_runtime.durable.files import (
    BytesLike,
    CorruptFileError,
    make_folder,
    read_json,
    write_atomic,
    write_json,
)
from seer_runtime.durable.generations import (
    MANIFEST,
    MANIFEST_VERSION,
    FileRecord,
    Generation,
    Manifest,
    NoSoundGenerationError,
    check_generation,
    generation_name,
    newest_generation,
    publish_generation,
)
from seer_runtime.durable.tensors import PIECE_BYTES, TensorFile, open_tensors, read_tensors, write_tensors

__all__ = [
    "MANIFEST",
    "MANIFEST_VERSION",
    "PIECE_BYTES",
    "BytesLike",
    "CorruptFileError",
    "FileRecord",
    "Generation",
    "Manifest",
    "NoSoundGenerationError",
    "TensorFile",
    "check_generation",
    "generation_name",
    "make_folder",
    "newest_generation",
    "open_tensors",
    "publish_generation",
    "read_json",
    "read_tensors",
    "write_atomic",
    "write_json",
    "write_tensors",
]
