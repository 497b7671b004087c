"""Single files: every step that touches the disk, `write_atomic` on top of them, reads that trust nothing, JSON.

A file becomes visible by one rename after its bytes are on the disk. All changes to the disk, those of tensors and
generations too, go through the functions under "Steps" and are looked up in this module at each call, so that a test
can make any one of them fail. What is read may have been put there by anybody: it is opened by `open_regular`, and no
more is read than was asked for.
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

JSON_BYTES = 2**20  # parsed, a hostile file of this size takes some 40 MB

_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Batch:
    """What `write_atomic` wrote into a folder whose own sync is still to come."""

    folder: Path
    synced: set[tuple[int, int, int]] = field(default_factory=set)

    def holds(self, state: os.stat_result) -> bool:
        """Whether the file with this state was synced and not changed since."""
        return _identity(state) in self.synced


_batch: ContextVar[Batch | None] = ContextVar("_batch", default=None)


class CorruptFileError(Exception):
    """A file or generation is not what its writer wrote; `path` and a one-line `reason` say which and how."""

    def __init__(self, path: Path, reason: str) -> None:
        if len(reason) > _REASON_CHARACTERS:
            reason = f"{reason[:_REASON_CHARACTERS]}…"
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# Steps


def _create(path: Path) -> int:
    """A descriptor of a file that did not exist before."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _open_append(path: Path) -> int:
    """A descriptor that writes to the end of `path`, which is made where it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags, 0o666)


def _write(descriptor: int, data: memoryview) -> int:
    """Bytes written, perhaps fewer than `data` has."""
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


def _read_piece(descriptor: int, size_bytes: int, offset_bytes: int) -> bytes:
    """At most `size_bytes` bytes, none at the end of the file."""
    return os.pread(descriptor, size_bytes, offset_bytes)


# Single files


def make_folder(path: Path) -> None:
    """Make `path` and its missing parents, durably; an existing folder is left as it is."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    _make_folder(path)
    _fsync_folder(path.parent)


def write_atomic(
    path: Path, chunks: BytesLike | Iterable[BytesLike], *, check: Callable[[Path], object] | None = None
) -> None:
    """Write `chunks` as the whole content of `path`: after a crash the file is the old one or the new one.

    On any error before the rename, the old file is untouched and nothing is left beside it. An OSError from syncing
    the folder comes after the rename: the new file is whole, but may not outlive a power cut. Inside
    `batch(path.parent)` the folder is not synced. `check` is called with the path of the complete temporary file before
    the rename. Raises OSError, and whatever iterating `chunks` or calling `check` raises.
    """
    batch = _batch.get()
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


@contextmanager
def batch(folder: Path) -> Iterator[Batch]:
    """Inside, `write_atomic` leaves the sync of `folder` to the caller, who does it once, and says what it synced."""
    batch = Batch(folder)
    token = _batch.set(batch)
    try:
        yield batch
    finally:
        _batch.reset(token)


@contextmanager
def open_regular(path: Path, *, follows_links: bool = False) -> Iterator[int]:
    """A descriptor to read `path` with; never blocks.

    Raises CorruptFileError for a link, unless it is followed, a folder, a pipe, a device or a socket, and OSError.
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
    """The whole content of `path`.

    Raises CorruptFileError where it has more than `at_most_bytes`, is not a regular file or becomes shorter meanwhile,
    and OSError.
    """
    with open_regular(path) as descriptor:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes > at_most_bytes:
            raise CorruptFileError(path, f"too large: {size_bytes:,} bytes, at most {at_most_bytes:,} are read")
        return read_range(path, descriptor, size_bytes, 0)


def read_range(path: Path, descriptor: int, size_bytes: int, offset_bytes: int) -> bytes:
    """That many bytes of the open file `path`. Raises CorruptFileError where it ends before, and OSError."""
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
    """Write `obj` to `path` as indented JSON through `write_atomic`.

    Raises ValueError for NaN and infinities, which JSON does not have, and for more than the `JSON_BYTES` that are read
    back, TypeError for what JSON cannot hold, and OSError.
    """
    data = f"{json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)}\n".encode()
    if len(data) > JSON_BYTES:
        raise ValueError(f"{path.name} would have {len(data):,} bytes of JSON, at most {JSON_BYTES:,} are read back")
    write_atomic(path, data)


def read_json(path: Path, at_most_bytes: int = JSON_BYTES) -> Any:
    """What `write_json` wrote. Raises OSError where it cannot be read, else CorruptFileError as `read_bytes` and
    `parse_json` do.
    """
    return parse_json(path, read_bytes(path, at_most_bytes))


def parse_json(path: Path, data: bytes) -> Any:
    """The value of `data`, which was read from `path`.

    Raises CorruptFileError for what is not JSON, NaN and infinities, a key that comes twice, and values nested deeper
    or numbers longer than Python takes.
    """
    try:
        return json.loads(
            data, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"not JSON: {one_line(error)}") from error


def remove(path: Path) -> None:
    """Remove a file, link or folder tree; what is not there is as good as removed. Raises OSError."""
    _remove(path)


def remove_after(error: BaseException, path: Path) -> None:
    """Clean up while `error` is on its way out: it stays the one that is raised."""
    try:
        _remove(path)
    except OSError as second:
        error.add_note(f"could not remove {path} either: {second}")


def one_line(error: BaseException) -> str:
    """What `error` says, without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def write_all(descriptor: int, chunk: BytesLike) -> None:
    """Write all of `chunk`, in as many steps as it takes. Raises OSError."""
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
        raise ValueError(f"{text} is too large a number")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key comes twice")
    return values


def _identity(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns
