"""Durable files: atomic writes, streamed safetensors, and checkpoints that survive a power cut.

Every file that must survive a crash is written here. A file becomes visible by one rename, after its bytes are on the
disk. A checkpoint is a folder that becomes visible the same way. It has a manifest with the size and SHA-256 of each
file. A checkpoint is sound if every file matches the manifest. Only one process may write to a folder at a time. A
second writer makes the first one fail; their bytes never mix.

All changes to the disk go through the functions under "Steps" in `files`, so that a test can make any one of them
fail. Readers trust neither the kind, nor the size, nor the content of a file.

Must not import any other folder of seer_runtime.
Start with `files.py` (single files), then `checkpoints.py` (checkpoints).
"""

from seer_runtime.durable.appender import Appender
from seer_runtime.durable.checkpoints import (
    Checkpoint,
    NoSoundCheckpointError,
    checkpoint_name,
    checkpoint_steps,
    newest_checkpoint,
    publish_checkpoint,
)
from seer_runtime.durable.container import CONTAINER_VERSION, Container, open_container, write_container
from seer_runtime.durable.files import (
    JSON_BYTES,
    BytesLike,
    CorruptFileError,
    json_bytes,
    leftovers,
    make_folder,
    read_bytes,
    read_json,
    read_lines,
    remove,
    rename_folder,
    write_atomic,
    write_json,
)
from seer_runtime.durable.manifest import MANIFEST, MANIFEST_VERSION, FileRecord, Manifest, verify_checkpoint
from seer_runtime.durable.tensors import (
    HEADER_BYTES,
    PIECE_BYTES,
    TensorFile,
    open_tensors,
    read_tensors,
    tensor_pieces,
    write_tensors,
)

__all__ = [
    "CONTAINER_VERSION",
    "HEADER_BYTES",
    "JSON_BYTES",
    "MANIFEST",
    "MANIFEST_VERSION",
    "PIECE_BYTES",
    "Appender",
    "BytesLike",
    "Checkpoint",
    "Container",
    "CorruptFileError",
    "FileRecord",
    "Manifest",
    "NoSoundCheckpointError",
    "TensorFile",
    "checkpoint_name",
    "checkpoint_steps",
    "json_bytes",
    "leftovers",
    "make_folder",
    "newest_checkpoint",
    "open_container",
    "open_tensors",
    "publish_checkpoint",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_tensors",
    "remove",
    "rename_folder",
    "tensor_pieces",
    "verify_checkpoint",
    "write_atomic",
    "write_container",
    "write_json",
    "write_tensors",
]
