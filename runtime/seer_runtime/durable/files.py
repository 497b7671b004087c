"""Single files: every step that touches the disk, `write_atomic` on top of them, JSON.

A file becomes visible by one rename after its bytes are on the disk. All changes to the disk, those of tensors and
generations too, go through the functions under "Steps" and are looked up in this module at each call, so that a test
can make any one of them fail.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

BytesLike = bytes | bytearray | memoryview


class CorruptFileError(Exception):
    """A file or generation is not what its writer wrote; `path` and a one-line `reason` say which and how."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


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
        remove_after(error, temporary)
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
        raise CorruptFileError(path, f"not JSON: {one_line(error)}") from error


def remove_after(error: BaseException, path: Path) -> None:
    """Clean up while `error` is on its way out: it stays the one that is raised."""
    try:
        _remove(path)
    except OSError as second:
        error.add_note(f"could not remove {path} either: {second}")


def one_line(error: BaseException) -> str:
    """What `error` says, without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _write_all(descriptor: int, chunk: BytesLike) -> None:
    view = memoryview(chunk)
    if view.nbytes == 0:
        return
    view = view.cast("B")
    while view:
        view = view[_write(descriptor, view) :]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
