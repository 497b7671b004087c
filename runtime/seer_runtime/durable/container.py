"""A container: several files (members) in one file, whose hashes are verified before any member is parsed.

| bytes | content |
|---|---|
| 8 | `MAGIC` |
| 4 | format version, little-endian |
| 4 | size of the manifest in bytes, little-endian |
| 32 | SHA-256 of the 16 bytes above and the manifest |
| … | the manifest: JSON, `{"about": …, "members": [{"name", "size_bytes", "sha256"}, …]}` |
| … | the content of the members, in the manifest's order, without gaps |

The hashes cover every byte, so the reader detects any damage. They do not prove who wrote the file: an attacker can
compute valid hashes too. So each member's own reader must treat its content as untrusted.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_runtime.durable import files
from seer_runtime.durable.files import BytesLike, CorruptFileError
from seer_runtime.durable.manifest import is_count, is_digest
from seer_runtime.durable.tensors import PIECE_BYTES, TensorFile, tensors_within

MAGIC = b"SEEREDGE"
CONTAINER_VERSION = 1
_PREFIX_BYTES, _DIGEST_BYTES = 16, 32
_HEAD_BYTES = _PREFIX_BYTES + _DIGEST_BYTES


def write_container(
    path: Path,
    about: Mapping[str, Any],
    members: Mapping[str, Sequence[BytesLike]],
    *,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Write a container with `members` and the JSON object `about` that describes them.

    Each member is a sequence of byte pieces. Equal input gives equal bytes. `check` is called with the path of the
    complete file before the file appears at `path`. Raises ValueError or TypeError if `about` is not valid JSON,
    ValueError if the manifest exceeds `files.JSON_BYTES`, OSError, and any exception of `check`.
    """
    records = [
        {"name": name, "size_bytes": sum(memoryview(piece).nbytes for piece in pieces), "sha256": _digest(pieces)}
        for name, pieces in members.items()
    ]
    text = json.dumps({"about": about, "members": records}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    manifest = text.encode()
    if len(manifest) > files.JSON_BYTES:
        raise ValueError(f"the manifest has {len(manifest):,} bytes, the limit is {files.JSON_BYTES:,}")
    prefix = MAGIC + CONTAINER_VERSION.to_bytes(4, "little") + len(manifest).to_bytes(4, "little")
    head = prefix + hashlib.sha256(prefix + manifest).digest() + manifest
    files.write_atomic(path, (piece for pieces in ([head], *members.values()) for piece in pieces), check=check)


def _digest(pieces: Sequence[BytesLike]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Member:
    size_bytes: int
    sha256: str
    start_bytes: int


class Container:
    """An open container with verified hashes. Valid only inside the `open_container` block.

    Attributes:
        path: the file, for messages.
        about: the JSON object that describes the container.
        members: size, hash and position of each member, by name.

    """

    def __init__(self, path: Path, descriptor: int, about: dict[str, Any], members: Mapping[str, _Member]) -> None:
        self.path = path
        self.about = about
        self.members: dict[str, _Member] = dict(members)
        self._descriptor = descriptor

    def read(self, name: str) -> bytes:
        """Return the content of member `name`. Hash it again, so that it is the content that was verified.

        Raises CorruptFileError if the member is missing or has changed since the container was opened, and OSError.
        """
        member = self._member(name)
        data = files.read_range(self.path, self._descriptor, member.size_bytes, member.start_bytes)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise CorruptFileError(self.path, f"{name!r} changed while it was read")
        return data

    def tensors(self, name: str) -> TensorFile:
        """Return member `name` as a tensor file, valid while the container is open.

        Raises CorruptFileError if the member is missing or not a valid tensor file, and OSError.
        """
        member = self._member(name)
        return tensors_within(self.path, self._descriptor, member.start_bytes, member.size_bytes)

    def _member(self, name: str) -> _Member:
        if name not in self.members:
            raise CorruptFileError(self.path, f"contains no {name}")
        return self.members[name]


@contextmanager
def open_container(path: Path, most_bytes: Mapping[str, int]) -> Iterator[Container]:
    """Open the container at `path` and verify its sizes and hashes, one piece at a time.

    `most_bytes` gives the allowed member names and the largest size of each. Links are followed. Raises
    CorruptFileError for an invalid or damaged container, and OSError.
    """
    with files.open_regular(path, follows_links=True) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        manifest, end_bytes = _manifest(path, descriptor, size_bytes)
        members: dict[str, _Member] = {}
        for record in manifest["members"]:
            name, member = _record(path, record, end_bytes)
            if name in members:
                raise CorruptFileError(path, f"member {name!r} occurs twice")
            if name not in most_bytes:
                raise CorruptFileError(path, f"holds {name[:40]!r}, so it is another kind of file or newer")
            if member.size_bytes > most_bytes[name]:
                raise CorruptFileError(
                    path, f"{name!r} has {member.size_bytes:,} bytes, the limit is {most_bytes[name]:,}"
                )
            members[name], end_bytes = member, end_bytes + member.size_bytes
        if end_bytes != size_bytes:
            raise CorruptFileError(path, f"the members end at byte {end_bytes:,}, the file at byte {size_bytes:,}")
        for name, member in members.items():
            if _digest_on_disk(path, descriptor, member) != member.sha256:
                raise CorruptFileError(path, f"{name!r} is damaged (SHA-256 differs)")
        yield Container(path, descriptor, manifest["about"], members)


def begins_as_bundle(path: Path) -> bool:
    """Whether the file starts with the magic bytes of a bundle. Check nothing else. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def member_names(path: Path) -> frozenset[str]:
    """Return the names of the members of the container at `path`, which are not verified.

    Raises CorruptFileError where the manifest is not one of this release, and OSError.
    """
    with files.open_regular(path, follows_links=True) as descriptor:
        manifest, end_bytes = _manifest(path, descriptor, os.fstat(descriptor).st_size)
    return frozenset(_record(path, record, end_bytes)[0] for record in manifest["members"])


def _manifest(path: Path, descriptor: int, size_bytes: int) -> tuple[dict[str, Any], int]:
    """Return the verified manifest and the byte offset of its end."""
    prefix = files.read_range(path, descriptor, min(_PREFIX_BYTES, size_bytes), 0)
    if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
        raise CorruptFileError(path, "not a bundle")
    version, length = (int.from_bytes(prefix[at : at + 4], "little") for at in (8, 12))
    if version != CONTAINER_VERSION:
        newer = f" (a newer seer-edge reads {version})" if version > CONTAINER_VERSION else ""
        raise CorruptFileError(path, f"format version {version}, this release reads {CONTAINER_VERSION}{newer}")
    if length > min(files.JSON_BYTES, size_bytes - _HEAD_BYTES):
        raise CorruptFileError(path, f"invalid manifest size of {length:,} bytes in a file of {size_bytes:,}")
    digest = files.read_range(path, descriptor, _DIGEST_BYTES, _PREFIX_BYTES)
    data = files.read_range(path, descriptor, length, _HEAD_BYTES)
    if hashlib.sha256(prefix + data).digest() != digest:
        raise CorruptFileError(path, "the manifest is damaged (SHA-256 differs)")
    manifest = files.parse_json(path, data)
    match manifest:
        case {"about": {}, "members": [*_], **others} if not others:
            return manifest, _HEAD_BYTES + length
    raise CorruptFileError(path, "the manifest must have exactly the keys 'about' and 'members'")


def _record(path: Path, record: object, start_bytes: int) -> tuple[str, _Member]:
    match record:
        case {"name": str(name), "size_bytes": size_bytes, "sha256": sha256, **others} if (
            not others and is_count(size_bytes) and is_digest(sha256)
        ):
            return name, _Member(size_bytes, sha256, start_bytes)
    raise CorruptFileError(path, "the manifest has a member without a valid name, size or SHA-256")


def _digest_on_disk(path: Path, descriptor: int, member: _Member) -> str:
    digest = hashlib.sha256()
    for done in range(0, member.size_bytes, PIECE_BYTES):
        size_bytes = min(PIECE_BYTES, member.size_bytes - done)
        digest.update(files.read_range(path, descriptor, size_bytes, member.start_bytes + done))
    return digest.hexdigest()
