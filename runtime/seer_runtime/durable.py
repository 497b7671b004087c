"""Durable files: atomic writes, streamed safetensors, and generations (checkpoints) that survive a power cut.

Everything the project wants to find again after a crash is written here. A file becomes visible by one rename
after its bytes are on the disk; a generation is a folder that becomes visible the same way, with a manifest of
sizes and SHA-256 sums by which a reader tells a sound one from a damaged one. A folder has one writer process
at a time: a second writer makes the first one fail, it never mixes bytes with it.

All changes to the disk go through the functions under "Steps", so that a test can make any one of them fail.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

BytesLike = bytes | bytearray | memoryview

PIECE_BYTES = 2**20
MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"

_UNPUBLISHED = ".tmp_"
_REPLACED = ".replaced_"
_GENERATION = re.compile(r"(?P<replaced>\.replaced_)?(?P<name>step_(?P<timestep>\d{10,}))", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class CorruptFileError(Exception):
    """A file or generation is not what its writer wrote; `path` and a one-line `reason` say which and how."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NoSoundGenerationError(Exception):
    """No generation can be loaded; `skipped` holds (path, reason) of those that are there, newest first."""

    def __init__(self, checkpoints_dir: Path, skipped: tuple[tuple[Path, str], ...]) -> None:
        super().__init__(checkpoints_dir, skipped)
        self.checkpoints_dir = checkpoints_dir
        self.skipped = skipped

    def __str__(self) -> str:
        if not self.skipped:
            return f"{self.checkpoints_dir}: no checkpoint was published here"
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in self.skipped)
        return f"{self.checkpoints_dir}: no sound checkpoint ({reasons})"


# Steps


def _create(path: Path) -> int:
    """A descriptor of a file that did not exist before."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _write(descriptor: int, data: memoryview) -> int:
    """Bytes written, perhaps fewer than `data` has."""
    return os.write(descriptor, data)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder at all, and have nothing to offer instead.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _make_folder(path: Path) -> None:
    path.mkdir()


def _remove(path: Path) -> None:
    """Remove a file, link or folder tree; what is not there is as good as removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(descriptor: int, out: memoryview, offset_bytes: int) -> int:
    """Bytes read into `out`, perhaps fewer than it has room for, 0 at the end of the file."""
    return os.preadv(descriptor, [out], offset_bytes)


# Single files


def make_folder(path: Path) -> None:
    """Make `path` and its missing parents, durably; an existing folder is left as it is."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    _make_folder(path)
    _fsync_folder(path.parent)


def write_atomic(path: Path, chunks: BytesLike | Iterable[BytesLike]) -> None:
    """Write `chunks` as the whole content of `path`: after a crash the file is the old one or the new one.

    On any error before the rename, the old file is untouched and nothing is left beside it. An OSError from syncing
    the folder comes after the rename: the new file is whole, but may not outlive a power cut. Raises OSError, and
    whatever iterating `chunks` raises.
    """
    leftover = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    for stale in [entry for entry in path.parent.iterdir() if leftover.fullmatch(entry.name)]:
        _remove(stale)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if isinstance(chunks, bytes | bytearray | memoryview):
        chunks = (chunks,)
    try:
        descriptor = _create(temporary)
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            _fsync(descriptor)
        finally:
            os.close(descriptor)
        _rename(temporary, path)
    except BaseException as error:
        _remove_after(error, temporary)
        raise
    _fsync_folder(path.parent)


def write_json(path: Path, obj: object) -> None:
    """Write `obj` to `path` as indented JSON through `write_atomic`.

    Raises ValueError for NaN and infinities, which JSON does not have, and TypeError for what it cannot hold.
    """
    text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomic(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises OSError where it cannot be read, CorruptFileError where it is not JSON."""
    data = path.read_bytes()
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"not JSON: {_one_line(error)}") from error


def _write_all(descriptor: int, chunk: BytesLike) -> None:
    view = memoryview(chunk)
    if view.nbytes == 0:
        return
    view = view.cast("B")
    while view:
        view = view[_write(descriptor, view) :]


def _remove_after(error: BaseException, path: Path) -> None:
    """Clean up while `error` is on its way out: it stays the one that is raised."""
    try:
        _remove(path)
    except OSError as second:
        error.add_note(f"could not remove {path} either: {second}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# Tensors


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write `arrays` to `path` in safetensors format, through `write_atomic`; the same input gives the same bytes.

    Arrays go to the disk in pieces of `PIECE_BYTES`, from where they lie; only one that is not C-contiguous is
    copied, and only up to that size. Raises ValueError for a larger one of those, for a reserved name, and for a
    dtype other than bool, (u)int8 to 64 and float16 to 64 in little-endian order; TypeError where metadata is not
    text; OSError.
    """
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise TypeError("metadata of a tensor file is text, keys and values")
        header[_METADATA] = dict(sorted(metadata.items()))
    end_bytes = 0
    for name, array in ordered:
        _check_writable(name, array)
        start_bytes, end_bytes = end_bytes, end_bytes + array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start_bytes, end_bytes],
        }
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    write_atomic(path, _tensor_chunks(encoded, [array for _, array in ordered]))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of `path`, each in memory of its own. Raises CorruptFileError and OSError."""
    with open_tensors(path) as tensors:
        arrays = {name: np.empty(tensors.shapes[name], tensors.dtypes[name]) for name in tensors.names}
        for name, array in arrays.items():
            tensors.read_into(name, array)
    return arrays


@contextmanager
def open_tensors(path: Path) -> Iterator["TensorFile"]:
    """Open `path` to read one tensor at a time. Raises CorruptFileError and OSError."""
    with path.open("rb", buffering=0) as file:
        try:
            # The library maps the file and proves that the tensors fill it exactly; no tensor is read.
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise CorruptFileError(path, f"not a safetensors file: {_one_line(error)}") from error
        length_bytes = int.from_bytes(file.read(8), "little")
        yield TensorFile(path, file.fileno(), json.loads(file.read(length_bytes)), 8 + length_bytes)


class TensorFile:
    """An open tensor file: `names`, `shapes`, `dtypes` and `metadata` are known, the data is still on the disk."""

    def __init__(self, path: Path, descriptor: int, header: dict[str, Any], data_start_bytes: int) -> None:
        self.path = path
        self.metadata: dict[str, str] = header.pop(_METADATA, None) or {}
        unknown = {entry["dtype"] for entry in header.values()} - _DTYPES.keys()
        if unknown:
            raise CorruptFileError(path, f"tensors of type {', '.join(sorted(unknown))} are not ours")
        self.names: tuple[str, ...] = tuple(sorted(header))
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(header[name]["shape"]) for name in header}
        self.dtypes: dict[str, np.dtype[Any]] = {name: _DTYPES[header[name]["dtype"]] for name in header}
        self._offsets = {name: data_start_bytes + header[name]["data_offsets"][0] for name in header}
        self._descriptor = descriptor

    def read_into(self, name: str, out: NDArray[Any]) -> None:
        """Fill `out` with tensor `name` straight from the file.

        `out` is C-contiguous and writable, with the tensor's shape and dtype; anything else is a ValueError. Raises
        KeyError for an unknown name, CorruptFileError where the file ends early, OSError.
        """
        offset_bytes = self._offsets[name]
        if out.shape != self.shapes[name] or out.dtype != self.dtypes[name]:
            raise ValueError(
                f"{name!r} is {self.dtypes[name]} {self.shapes[name]}; it does not fit {out.dtype} {out.shape}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError(f"{name!r} can be read into a C-contiguous, writable array only")
        view = _bytes_of(out)
        while view:
            count = _read(self._descriptor, view, offset_bytes)
            if count == 0:
                raise CorruptFileError(self.path, f"ends inside tensor {name!r}")
            view = view[count:]
            offset_bytes += count


def _check_writable(name: str, array: NDArray[Any]) -> None:
    if name == _METADATA:
        raise ValueError(f"a tensor cannot be named {_METADATA}: the format reserves it")
    if array.dtype not in _CODES:
        raise ValueError(f"tensor {name!r} has dtype {array.dtype.str}, which a tensor file cannot hold")
    if not array.flags.c_contiguous and array.nbytes > PIECE_BYTES:
        raise ValueError(f"tensor {name!r} is not C-contiguous and with {array.nbytes:,} bytes too large to copy")


def _tensor_chunks(header: bytes, arrays: Iterable[NDArray[Any]]) -> Iterator[BytesLike]:
    yield len(header).to_bytes(8, "little") + header
    for array in arrays:
        view = _bytes_of(array if array.flags.c_contiguous else array.copy(order="C"))
        for start_bytes in range(0, len(view), PIECE_BYTES):
            yield view[start_bytes : start_bytes + PIECE_BYTES]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


# Generations


class FileRecord(TypedDict):
    """What the manifest knows of one file."""

    size_bytes: int
    sha256: str


class Manifest(TypedDict):
    """`manifest.json` of a generation; `files` has every file but the manifest itself."""

    format_version: int
    timestep: int
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Generation:
    """A generation found sound, and (path, reason) of the newer ones that were not, newest first."""

    path: Path
    manifest: Manifest
    skipped: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _Candidate:
    timestep: int
    published: bool
    path: Path


def generation_name(timestep: int) -> str:
    """Folder name of a generation; names sort as timesteps do."""
    return f"step_{timestep:010d}"


def publish_generation(checkpoints_dir: Path, timestep: int, write: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Publish what `write(folder)` puts into an empty folder as the generation of `timestep`; returns its path.

    `write` makes plain files, no folders or links, and none named `manifest.json`. If it or anything up to the
    rename fails, the error propagates and nothing is published.

    The generation of the same timestep, if there is one, is set aside under a hidden name, the new one renamed in,
    the old one removed; `newest_generation` also looks at what was set aside, so there is no moment without it.

    Once the new generation is on the disk, older ones are removed until `keep` are left with it. A newer
    one, from which the run therefore did not go on, is removed if it is damaged and else left alone. What killed
    writers left is removed, too. An OSError from this tidying, or from the last sync, comes after the publication.

    Raises ValueError for a negative timestep, `keep` below 1 and files that cannot be published; OSError.
    """
    if timestep < 0 or keep < 1:
        raise ValueError(f"timestep {timestep} and keep {keep}: at least 0 and 1 are needed")
    make_folder(checkpoints_dir)
    # Before writing: on a small disk their room is needed.
    _remove_unpublished(checkpoints_dir)
    final = checkpoints_dir / generation_name(timestep)
    new = checkpoints_dir / f"{_UNPUBLISHED}{final.name}"
    try:
        _make_folder(new)
        write(new)
        _seal(new, timestep)
        _rename_in(new, final)
    except BaseException as error:
        _remove_after(error, new)
        raise
    _fsync_folder(checkpoints_dir)
    _prune(checkpoints_dir, timestep, keep)
    return final


def newest_generation(checkpoints_dir: Path) -> Generation:
    """The newest generation whose every file is as its manifest says; changes nothing on the disk.

    Raises NoSoundGenerationError where there is none, or no such folder.
    """
    skipped: list[tuple[Path, str]] = []
    for candidate in _candidates(checkpoints_dir):
        try:
            manifest = check_generation(candidate.path)
        except CorruptFileError as error:
            skipped.append((candidate.path, error.reason))
        except OSError as error:
            skipped.append((candidate.path, f"cannot be read: {_one_line(error)}"))
        else:
            return Generation(candidate.path, manifest, tuple(skipped))
    raise NoSoundGenerationError(checkpoints_dir, tuple(skipped))


def check_generation(path: Path) -> Manifest:
    """The manifest of the generation at `path`, after comparing every file's size and SHA-256 with it.

    Files that the manifest does not name are ignored, links are refused. Raises CorruptFileError and OSError.
    """
    if path.is_symlink() or not path.is_dir():
        raise CorruptFileError(path, "not a folder")
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise CorruptFileError(path, f"{entry.name!r} is a symbolic link")
    if not (path / MANIFEST).is_file():
        raise CorruptFileError(path, f"no {MANIFEST}")
    manifest = _read_manifest(path)
    for name, record in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CorruptFileError(path, f"{name!r} is missing")
        size_bytes = file.stat().st_size
        if size_bytes != record["size_bytes"]:
            raise CorruptFileError(path, f"{name!r} has {size_bytes} bytes instead of {record['size_bytes']}")
    for name, record in manifest["files"].items():
        with (path / name).open("rb", buffering=0) as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != record["sha256"]:
                raise CorruptFileError(path, f"{name!r} has other bytes than were written (SHA-256 differs)")
    return manifest


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = read_json(path / MANIFEST)
    except CorruptFileError as error:
        raise CorruptFileError(path, f"{MANIFEST} is {error.reason}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CorruptFileError(path, f"{MANIFEST} lists no files")
    if manifest.get("format_version") != MANIFEST_VERSION:
        version = manifest.get("format_version")
        raise CorruptFileError(path, f"{MANIFEST} has format {version!r}, this release reads {MANIFEST_VERSION}")
    timestep = manifest.get("timestep")
    match = _GENERATION.fullmatch(path.name)
    if not _is_count(timestep) or (match is not None and timestep != int(match["timestep"])):
        raise CorruptFileError(path, f"{MANIFEST} has timestep {timestep!r}")
    for name, record in manifest["files"].items():
        if not _is_plain_name(name):
            raise CorruptFileError(path, f"{MANIFEST} lists {name!r}, which is not a plain file name")
        if not (
            isinstance(record, dict)
            and _is_count(record.get("size_bytes"))
            and isinstance(record.get("sha256"), str)
            and _SHA256.fullmatch(record["sha256"])
        ):
            raise CorruptFileError(path, f"{MANIFEST} has no size and SHA-256 of {name!r}")
    return cast(Manifest, manifest)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..", MANIFEST) and not any(mark in name for mark in "/\\\0")


def _seal(folder: Path, timestep: int) -> None:
    """Sync every file of `folder`, then write the manifest, then sync the folder."""
    files: dict[str, FileRecord] = {}
    for entry in sorted(folder.iterdir()):
        if not _is_plain_name(entry.name) or not stat.S_ISREG(entry.lstat().st_mode):
            raise ValueError(f"a generation holds plain files only, {entry.name!r} is not one")
        with entry.open("rb", buffering=0) as stream:
            _fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[entry.name] = {"size_bytes": os.fstat(stream.fileno()).st_size, "sha256": digest}
    manifest: Manifest = {"format_version": MANIFEST_VERSION, "timestep": timestep, "files": files}
    write_json(folder / MANIFEST, manifest)


def _rename_in(new: Path, final: Path) -> None:
    """Rename `new` to `final`; a former `final` is left aside under its hidden name."""
    # A folder cannot replace a filled one in one rename.
    if not os.path.lexists(final):
        _rename(new, final)
        return
    aside = final.with_name(f"{_REPLACED}{final.name}")
    _remove(aside)
    _rename(final, aside)
    try:
        _rename(new, final)
    except BaseException as error:
        try:
            _rename(aside, final)
        except OSError as second:
            error.add_note(f"the former {final.name} stays at {aside}: {second}")
        raise


def _prune(checkpoints_dir: Path, timestep: int, keep: int) -> None:
    candidates = _candidates(checkpoints_dir)
    kept = [found.path for found in candidates if found.published and found.timestep <= timestep][:keep]
    for candidate in candidates:
        if candidate.path in kept or (candidate.timestep > timestep and not _is_damaged(candidate.path)):
            continue
        # First out of sight, so that a half-removed generation is never taken for a damaged one.
        doomed = checkpoints_dir / f"{_UNPUBLISHED}removed_{candidate.path.name}"
        _rename(candidate.path, doomed)
        _remove(doomed)


def _is_damaged(path: Path) -> bool:
    try:
        check_generation(path)
    except CorruptFileError:
        return True
    except OSError:
        # It may be readable again later, and nothing is removed on a suspicion.
        return False
    return False


def _remove_unpublished(checkpoints_dir: Path) -> None:
    for entry in [entry for entry in checkpoints_dir.iterdir() if entry.name.startswith(_UNPUBLISHED)]:
        _remove(entry)


def _candidates(checkpoints_dir: Path) -> list[_Candidate]:
    """Published generations and those set aside, newest first, a published one before its predecessor."""
    found: list[_Candidate] = []
    for path in checkpoints_dir.iterdir() if checkpoints_dir.is_dir() else ():
        match = _GENERATION.fullmatch(path.name)
        if match is not None and match["name"] == generation_name(int(match["timestep"])):
            found.append(_Candidate(int(match["timestep"]), match["replaced"] is None, path))
    return sorted(found, key=lambda candidate: (candidate.timestep, candidate.published), reverse=True)
