"""The manifest of a checkpoint: the size and SHA-256 of each file, and the check of a checkpoint against it."""

import hashlib
import os
import re
from pathlib import Path
from typing import TypedDict, cast

from seer_runtime.durable import files
from seer_runtime.durable.files import CorruptFileError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)
CHECKPOINT_NAME = re.compile(r"(?P<replaced>\.replaced_)?(?P<name>step_(?P<timestep>\d{10,}))", re.ASCII)


class FileRecord(TypedDict):
    """The entry of one file in the manifest. `sha256` is in lowercase hexadecimal."""

    size_bytes: int
    sha256: str


class Manifest(TypedDict):
    """The content of `manifest.json`. `files` lists every file except the manifest itself, by name."""

    format_version: int
    timestep: int
    files: dict[str, FileRecord]


def verify_checkpoint(path: Path) -> Manifest:
    """Check every file of the checkpoint at `path` against its manifest. Return the manifest.

    Files that the manifest does not list are ignored. Links are rejected. Raises CorruptFileError if the checkpoint is
    not sound, and OSError.
    """
    if path.is_symlink() or not path.is_dir():
        raise CorruptFileError(path, "not a folder")
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise CorruptFileError(path, f"{entry.name!r} is a symbolic link")
    manifest = _read_manifest(path)
    for name, record in manifest["files"].items():
        size_bytes, digest = _size_and_digest(path, name, record["size_bytes"])
        compare(path, name, record, size_bytes, digest)
    return manifest


def _size_and_digest(folder: Path, name: str, expected_bytes: int) -> tuple[int, str]:
    """Return the size and SHA-256 of a file. The digest is empty if the size differs from `expected_bytes`."""
    try:
        with files.open_regular(folder / name) as descriptor, open(descriptor, "rb", 0, closefd=False) as stream:
            size_bytes = os.fstat(descriptor).st_size
            digest = hashlib.file_digest(stream, "sha256").hexdigest() if size_bytes == expected_bytes else ""
            return size_bytes, digest
    except FileNotFoundError as error:
        raise CorruptFileError(folder, f"{name!r} is missing") from error
    except CorruptFileError as error:
        raise CorruptFileError(folder, f"{name!r} is {error.reason}") from error


def compare(folder: Path, name: str, record: FileRecord, size_bytes: int, digest: str) -> None:
    """Raise CorruptFileError if the size or SHA-256 of file `name` differs from `record`."""
    if size_bytes != record["size_bytes"]:
        raise CorruptFileError(folder, f"{name!r} has {size_bytes} bytes instead of {record['size_bytes']}")
    if digest != record["sha256"]:
        raise CorruptFileError(folder, f"{name!r} is damaged (SHA-256 differs)")


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = files.read_json(path / MANIFEST)
    except FileNotFoundError as error:
        raise CorruptFileError(path, f"no {MANIFEST}") from error
    except CorruptFileError as error:
        raise CorruptFileError(path, f"{MANIFEST} is {error.reason}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CorruptFileError(path, f"{MANIFEST} lists no files")
    if manifest.get("format_version") != MANIFEST_VERSION:
        version = manifest.get("format_version")
        raise CorruptFileError(
            path, f"{MANIFEST} has format version {version!r}, this release reads {MANIFEST_VERSION}"
        )
    timestep = manifest.get("timestep")
    match = CHECKPOINT_NAME.fullmatch(path.name)
    if not is_count(timestep) or (match is not None and timestep != int(match["timestep"])):
        raise CorruptFileError(path, f"{MANIFEST} has timestep {timestep!r}, which does not match the folder name")
    for name, record in manifest["files"].items():
        if not is_plain_name(name):
            raise CorruptFileError(path, f"{MANIFEST} lists {name!r}, which is not a plain file name")
        if not (isinstance(record, dict) and is_count(record.get("size_bytes")) and is_digest(record.get("sha256"))):
            raise CorruptFileError(path, f"{MANIFEST} has no valid size and SHA-256 of {name!r}")
    return cast(Manifest, manifest)


def is_count(value: object) -> bool:
    """Whether `value` is an integer of at least 0."""
    return type(value) is int and value >= 0


def is_digest(value: object) -> bool:
    """Whether `value` is a SHA-256 in lowercase hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_plain_name(name: str) -> bool:
    """Whether a file of a checkpoint may have this name: ASCII, not hidden, no path separator, not the manifest."""
    return name != MANIFEST and _PLAIN_NAME.fullmatch(name) is not None
