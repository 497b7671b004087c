"""Single files: atomic writes, JSON, and reads of untrusted files.

A file becomes visible by one rename, after its bytes are on the disk. All changes to the disk in this package go
through the functions under "Steps". Callers look these up in this module at each call, so that a test can make any one
of them fail. Files that are read are untrusted: `open_regular` checks their kind, and every read has a size limit.
"""

import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

BytesLike = bytes | bytearray | memoryview

JSON_BYTES = 2**20  # the parsed values of a malicious file of this size take about 40 MB

_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Batch:
    """The files that `write_atomic` wrote into `folder` before the folder itself is synced."""

    folder: Path
    synced: set[tuple[int, int, int]] = field(default_factory=set)

    def holds(self, state: os.stat_result) -> bool:
        """Whether the file with this `fstat` result was synced and has not changed since."""
        return _identity(state) in self.synced


_batch: ContextVar[Batch | None] = ContextVar("_batch", default=None)


class CorruptFileError(Exception):
    """Raised for a damaged or invalid file or checkpoint. `path` names it; `reason` is one line."""

    def __init__(self, path: Path, reason: str) -> None:
        if len(reason) > _REASON_CHARACTERS:
            reason = f"{reason[:_REASON_CHARACTERS]}…"
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# Steps: the only functions that change the disk. Tests replace them to inject faults.


def _create(path: Path) -> int:
    """Create `path`, which must not exist, and return a descriptor for writing."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _open_append(path: Path) -> int:
    """Return a descriptor that appends to `path`. Create the file if it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags, 0o666)


def _write(descriptor: int, data: memoryview) -> int:
    """Write some or all of `data`. Return the number of bytes written."""
    return os.write(descriptor, data)


def _truncate(descriptor: int, size_bytes: int) -> None:
    os.ftruncate(descriptor, size_bytes)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder and offer no alternative.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _make_folder(path: Path) -> None:
    path.mkdir()


def _remove(path: Path) -> None:
    """Remove a file, link or folder tree. Do nothing if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(descriptor: int, out: memoryview, offset_bytes: int) -> int:
    """Fill some or all of `out` from the file. Return the number of bytes read, 0 at the end of the file."""
    return os.preadv(descriptor, [out], offset_bytes)


def _read_piece(descriptor: int, size_bytes: int, offset_bytes: int) -> bytes:
    """Return at most `size_bytes` bytes of the file, or none at its end."""
    return os.pread(descriptor, size_bytes, offset_bytes)


# Single files


def make_folder(path: Path) -> None:
    """Create the folder `path` and its missing parents, and sync each one. Do nothing if it exists. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    _make_folder(path)
    _fsync_folder(path.parent)


def write_atomic(
    path: Path, chunks: BytesLike | Iterable[BytesLike], *, check: Callable[[Path], object] | None = None
) -> None:
    """Replace the content of `path` by `chunks`. After a crash, the file has the old or the new content.

    An error before the rename leaves the old file unchanged and removes the temporary file. `check` is called with the
    path of the complete temporary file. If the sync of the folder fails after the rename, the new file is complete but
    may not survive a power cut. Inside `batch(path.parent)`, the folder is not synced. Raises OSError, and any
    exception of `check` or of the iteration over `chunks`.
    """
    batch = _batch.get()
    for stale in leftovers(path):
        _remove(stale)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if isinstance(chunks, bytes | bytearray | memoryview):
        chunks = (chunks,)
    try:
        descriptor = _create(temporary)
        try:
            for chunk in chunks:
                write_all(descriptor, chunk)
            _fsync(descriptor)
            state = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if check is not None:
            check(temporary)
        _rename(temporary, path)
    except BaseException as error:
        remove_after(error, temporary)
        raise
    if batch is not None and batch.folder == path.parent:
        batch.synced.add(_identity(state))
    else:
        _fsync_folder(path.parent)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder and sync the one that holds it. `target` may be an empty folder. Raises OSError."""
    _rename(source, target)
    _fsync_folder(target.parent)


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files that killed processes left when they wrote `path`. The next write removes them.

    Raises OSError.
    """
    leftover = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    return [entry for entry in path.parent.iterdir() if leftover.fullmatch(entry.name)]


@contextmanager
def batch(folder: Path) -> Iterator[Batch]:
    """Context manager: make `write_atomic` skip the sync of `folder`. The caller then syncs the folder once.

    The yielded `Batch` records which files were synced.
    """
    batch = Batch(folder)
    token = _batch.set(batch)
    try:
        yield batch
    finally:
        _batch.reset(token)


@contextmanager
def open_regular(path: Path, *, follows_links: bool = False) -> Iterator[int]:
    """Context manager: open the regular file `path` for reading and yield its descriptor. Never blocks.

    Raises CorruptFileError for a folder, pipe, device or socket, and for a link unless `follows_links` is true. Raises
    OSError if the file cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if follows_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follows_links:
            raise CorruptFileError(path, "a symbolic link") from error
        if error.errno == errno.ENXIO:
            raise CorruptFileError(path, "not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptFileError(path, "not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_bytes(path: Path, at_most_bytes: int) -> bytes:
    """Return the whole content of the file `path`.

    Raises CorruptFileError if the file is larger than `at_most_bytes`, is not a regular file or becomes shorter during
    the read, and OSError.
    """
    with open_regular(path) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes > at_most_bytes:
            raise CorruptFileError(path, f"too large: {size_bytes:,} bytes, the limit is {at_most_bytes:,}")
        return read_range(path, descriptor, size_bytes, 0)


def read_lines(path: Path, at_most_bytes: int) -> Iterator[bytes]:
    """Yield the lines of the file `path` with their ends. One longer than `at_most_bytes` comes in pieces of that size.

    Raises CorruptFileError if the file is not a regular file, and OSError.
    """
    with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        while line := stream.readline(at_most_bytes):
            yield line


def read_range(path: Path, descriptor: int, size_bytes: int, offset_bytes: int) -> bytes:
    """Return `size_bytes` bytes of the open file from `offset_bytes` on. `path` is used in messages only.

    Raises CorruptFileError if the file ends before, and OSError.
    """
    pieces: list[bytes] = []
    while size_bytes:
        piece = _read_piece(descriptor, size_bytes, offset_bytes)
        if not piece:
            raise CorruptFileError(path, "shorter than when it was opened")
        pieces.append(piece)
        size_bytes -= len(piece)
        offset_bytes += len(piece)
    return b"".join(pieces)


def write_json(path: Path, obj: object) -> None:
    """Write `obj` to `path` through `write_atomic`. Raises OSError, and what `json_bytes` raises."""
    write_atomic(path, json_bytes(path, obj))


def json_bytes(path: Path, obj: object) -> bytes:
    """Return `obj` as the indented JSON that `write_json` writes to `path`.

    The text is UTF-8. If a string cannot be encoded, such as a path with other bytes, all characters that are not ASCII
    are escaped, and `read_json` returns the same string. Raises ValueError for NaN, for infinities and for more than
    `JSON_BYTES` of text, and TypeError for other values that JSON cannot represent.
    """
    try:
        data = f"{json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        data = f"{json.dumps(obj, indent=2, allow_nan=False)}\n".encode()
    if len(data) > JSON_BYTES:
        raise ValueError(f"{path.name} would have {len(data):,} bytes of JSON, the limit is {JSON_BYTES:,}")
    return data


def read_json(path: Path, at_most_bytes: int = JSON_BYTES) -> Any:
    """Return the value of the JSON file `path`.

    Raises OSError if the file cannot be read, and CorruptFileError for the reasons of `read_bytes` and `parse_json`.
    """
    return parse_json(path, read_bytes(path, at_most_bytes))


def parse_json(path: Path, data: bytes) -> Any:
    """Return the value of the JSON text `data`, which was read from `path`.

    Raises CorruptFileError for invalid JSON, NaN and infinities, a repeated key, and values with more nesting or more
    digits than Python accepts.
    """
    try:
        return json.loads(
            data, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"not JSON: {one_line(error)}") from error


def remove(path: Path) -> None:
    """Remove a file, link or folder tree. Do nothing if it does not exist. Raises OSError."""
    _remove(path)


def remove_after(error: BaseException, path: Path) -> None:
    """Remove `path` while `error` is handled. If that fails, add a note to `error` instead of raising."""
    try:
        _remove(path)
    except OSError as second:
        error.add_note(f"could not remove {path}: {second}")


def one_line(error: BaseException) -> str:
    """Return the message of `error` on one line, or the name of its type if it has no message."""
    try:
        message = str(error)
    except Exception:  # the exception may come from an environment
        message = ""
    return " ".join(message.split()) or type(error).__name__


def write_all(descriptor: int, chunk: BytesLike) -> None:
    """Write all of `chunk`, in as many calls as necessary. Raises OSError."""
    view = memoryview(chunk)
    if view.nbytes == 0:
        return
    view = view.cast("B")
    while view:
        view = view[_write(descriptor, view) :]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a float")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns
