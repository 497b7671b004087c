"""A container: several files in one, proven by their hashes before anything in them is parsed.

| bytes | |
|---|---|
| 8 | `MAGIC` |
| 4 | format version, little-endian |
| 4 | bytes of the manifest, little-endian |
| 32 | SHA-256 of the 16 bytes before and of the manifest |
| … | the manifest: JSON, `{"about": …, "members": [{"name", "size_bytes", "sha256"}, …]}` |
| … | the members' bytes, one after another, as they are |

Every byte is under a hash, so none can change unseen. Hashes prove integrity, not good will: a stranger can write them
too, and what a member holds is checked by its own reader.
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
    """Write `members`, each in pieces, with what they are `about`; the same input gives the same bytes.

    `check` is called with the path of the complete file before it takes its place. Raises ValueError and TypeError for
    what JSON cannot hold or more of it than is read back, OSError, and whatever `check` raises.
    """
    records = [
        {"name": name, "size_bytes": sum(memoryview(piece).nbytes for piece in pieces), "sha256": _digest(pieces)}
        for name, pieces in members.items()
    ]
    text = json.dumps({"about": about, "members": records}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    manifest = text.encode()
    if len(manifest) > files.JSON_BYTES:
        raise ValueError(f"a manifest of {len(manifest):,} bytes, at most {files.JSON_BYTES:,} are read back")
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
    """An open container whose every hash was right: what it is `about`, and its members by name."""

    def __init__(self, path: Path, descriptor: int, about: dict[str, Any], members: Mapping[str, _Member]) -> None:
        self.path = path
        self.about = about
        self.members: dict[str, _Member] = dict(members)
        self._descriptor = descriptor

    def read(self, name: str) -> bytes:
        """The bytes of a member, hashed once more: these are the ones that were checked.

        Raises CorruptFileError where there is none of that name or it changed meanwhile, and OSError.
        """
        member = self._member(name)
        data = files.read_range(self.path, self._descriptor, member.size_bytes, member.start_bytes)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise CorruptFileError(self.path, f"{name!r} changed while it was read")
        return data

    def tensors(self, name: str) -> TensorFile:
        """A member that is a tensor file, valid while the container is open. Raises as `read`."""
        member = self._member(name)
        return tensors_within(self.path, self._descriptor, member.start_bytes, member.size_bytes)

    def _member(self, name: str) -> _Member:
        if name not in self.members:
            raise CorruptFileError(self.path, f"it holds no {name}")
        return self.members[name]


@contextmanager
def open_container(path: Path, most_bytes: Mapping[str, int]) -> Iterator[Container]:
    """Open `path`; its members are among those of `most_bytes`, and none is larger than that says.

    A link is followed. Sizes are compared, then every byte is hashed, a piece at a time. Raises CorruptFileError and
    OSError.
    """
    with files.open_regular(path, follows_links=True) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        manifest, end_bytes = _manifest(path, descriptor, size_bytes)
        members: dict[str, _Member] = {}
        for record in manifest["members"]:
            name, member = _record(path, record, end_bytes)
            if name in members or name not in most_bytes:
                raise CorruptFileError(path, f"a member {name[:40]!r} that is not expected there, or comes twice")
            if member.size_bytes > most_bytes[name]:
                raise CorruptFileError(
                    path, f"{name!r} has {member.size_bytes:,} bytes, at most {most_bytes[name]:,} are read"
                )
            members[name], end_bytes = member, end_bytes + member.size_bytes
        if end_bytes != size_bytes:
            raise CorruptFileError(path, f"its members end at byte {end_bytes:,} of {size_bytes:,}")
        for name, member in members.items():
            if _digest_on_disk(path, descriptor, member) != member.sha256:
                raise CorruptFileError(path, f"{name!r} has other bytes than were written (SHA-256 differs)")
        yield Container(path, descriptor, manifest["about"], members)


def begins_as_bundle(path: Path) -> bool:
    """Whether the first bytes of a file are a bundle's, sound or not. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _manifest(path: Path, descriptor: int, size_bytes: int) -> tuple[dict[str, Any], int]:
    """The manifest and where it ends."""
    prefix = files.read_range(path, descriptor, min(_PREFIX_BYTES, size_bytes), 0)
    if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
        raise CorruptFileError(path, "not a bundle")
    version, length = (int.from_bytes(prefix[at : at + 4], "little") for at in (8, 12))
    if version != CONTAINER_VERSION:
        newer = f" (a newer seer-edge reads {version})" if version > CONTAINER_VERSION else ""
        raise CorruptFileError(path, f"format version {version}, this release reads {CONTAINER_VERSION}{newer}")
    if length > min(files.JSON_BYTES, size_bytes - _HEAD_BYTES):
        raise CorruptFileError(path, f"a manifest of {length:,} bytes in {size_bytes:,}")
    digest = files.read_range(path, descriptor, _DIGEST_BYTES, _PREFIX_BYTES)
    data = files.read_range(path, descriptor, length, _HEAD_BYTES)
    if hashlib.sha256(prefix + data).digest() != digest:
        raise CorruptFileError(path, "its manifest has other bytes than were written (SHA-256 differs)")
    manifest = files.parse_json(path, data)
    match manifest:
        case {"about": {}, "members": [*_], **others} if not others:
            return manifest, _HEAD_BYTES + length
    raise CorruptFileError(path, "its manifest does not say what it is about and what members it has")


def _record(path: Path, record: object, start_bytes: int) -> tuple[str, _Member]:
    match record:
        case {"name": str(name), "size_bytes": size_bytes, "sha256": sha256, **others} if (
            not others and is_count(size_bytes) and is_digest(sha256)
        ):
            return name, _Member(size_bytes, sha256, start_bytes)
    raise CorruptFileError(path, "its manifest has a member without name, size and SHA-256")


def _digest_on_disk(path: Path, descriptor: int, member: _Member) -> str:
    digest = hashlib.sha256()
    for done in range(0, member.size_bytes, PIECE_BYTES):
        size_bytes = min(PIECE_BYTES, member.size_bytes - done)
        digest.update(files.read_range(path, descriptor, size_bytes, member.start_bytes + done))
    return digest.hexdigest()
