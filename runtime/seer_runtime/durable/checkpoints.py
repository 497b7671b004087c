"""Checkpoints: publish a folder of files atomically, and find the newest sound one.

A checkpoint is a folder that becomes visible by one rename. Its manifest lists the size and SHA-256 of each file, so a
reader can distinguish a sound checkpoint from a damaged one.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_runtime.durable import files
from seer_runtime.durable.files import CorruptFileError
from seer_runtime.durable.manifest import (
    CHECKPOINT_NAME,
    MANIFEST,
    MANIFEST_VERSION,
    FileRecord,
    Manifest,
    compare,
    is_plain_name,
    verify_checkpoint,
)

_UNPUBLISHED = ".tmp_"
_REPLACED = ".replaced_"
_LISTINGS = 50  # how often a reader starts over because a writer moved the checkpoints that it was reading


class NoSoundCheckpointError(Exception):
    """Raised if no checkpoint is sound. `skipped` lists (path, reason) of the damaged ones, newest first."""

    def __init__(self, checkpoints_dir: Path, skipped: tuple[tuple[Path, str], ...]) -> None:
        super().__init__(checkpoints_dir, skipped)
        self.checkpoints_dir = checkpoints_dir
        self.skipped = skipped

    @property
    def reason(self) -> str:
        """The cause, on one line."""
        if not self.skipped:
            return "no checkpoint was published here"
        return f"no undamaged checkpoint ({'; '.join(f'{path.name}: {reason}' for path, reason in self.skipped)})"

    def __str__(self) -> str:
        return f"{self.checkpoints_dir}: {self.reason}"


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint. `skipped` lists (path, reason) of newer, damaged checkpoints, newest first."""

    path: Path
    manifest: Manifest
    skipped: tuple[tuple[Path, str], ...]

    def read_bytes(self, name: str, at_most_bytes: int) -> bytes:
        """Return the content of file `name`, after checking exactly these bytes against the manifest.

        Raises CorruptFileError if they do not match, or if the file is missing or larger than `at_most_bytes`, and
        OSError.
        """
        record = self.manifest["files"].get(name)
        if record is None:
            raise CorruptFileError(self.path, f"has no file {name!r}")
        data = files.read_bytes(self.path / name, at_most_bytes)
        compare(self.path, name, record, len(data), hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, name: str, at_most_bytes: int = files.JSON_BYTES) -> Any:
        """Return the value of the JSON file `name`.

        Raises CorruptFileError for the reasons of `read_bytes` and `files.parse_json`, and OSError.
        """
        return files.parse_json(self.path / name, self.read_bytes(name, at_most_bytes))


@dataclass(frozen=True)
class _Candidate:
    timestep: int
    published: bool
    path: Path


def checkpoint_name(timestep: int) -> str:
    """Return the folder name of the checkpoint of `timestep`. Names sort like timesteps, up to ten digits."""
    return f"step_{timestep:010d}"


def publish_checkpoint(
    checkpoints_dir: Path,
    timestep: int,
    write: Callable[[Path], None],
    *,
    keep: int = 2,
    always: Collection[int] = (),
) -> Path:
    """Call `write(folder)` on an empty folder and publish the result as the checkpoint of `timestep`. Return its path.

    `write` may create only plain files: no folders, no links, and no `manifest.json`. Files that it does not write with
    `write_atomic` are synced here. If `write` or any step before the rename fails, the error propagates and nothing is
    published.

    An existing checkpoint of the same timestep is first renamed to a hidden name. Then the new one is renamed into
    place and the old one is removed. `newest_checkpoint` also reads the hidden name, so a checkpoint exists at every
    moment.

    After publication, the oldest checkpoints are removed until `keep` remain, including the new one. Those of the
    timesteps `always` are not removed and do not count. A checkpoint with
    a later timestep is removed only if it is damaged: a resumed run has skipped it. Leftovers of killed writers are
    removed before the write. An OSError from the last sync or from the removal is raised after the publication.

    Raises ValueError for a negative timestep, for `keep` below 1 and for files that cannot be published. Raises
    OSError, also if `checkpoints_dir` is a link.
    """
    if timestep < 0 or keep < 1:
        raise ValueError(f"timestep is {timestep} and must be at least 0, keep is {keep} and must be at least 1")
    if checkpoints_dir.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a symbolic link, not a folder", str(checkpoints_dir))
    files.make_folder(checkpoints_dir)
    # Before the write, because a small disk may need the space.
    _remove_unpublished(checkpoints_dir)
    final = checkpoints_dir / checkpoint_name(timestep)
    new = checkpoints_dir / f"{_UNPUBLISHED}{final.name}"
    try:
        files._make_folder(new)
        with files.batch(new) as batch:
            write(new)
        _seal(new, timestep, batch)
        _rename_in(new, final)
    except BaseException as error:
        files.remove_after(error, new)
        raise
    files._fsync_folder(checkpoints_dir)
    _prune(checkpoints_dir, timestep, keep, always)
    return final


def newest_checkpoint(checkpoints_dir: Path, at: int | None = None) -> Checkpoint:
    """Return the newest sound checkpoint, or the sound one of timestep `at`. Change nothing on the disk.

    A writer may publish and remove checkpoints at the same time. Raises NoSoundCheckpointError if no checkpoint is
    sound or the folder does not exist, CorruptFileError if `checkpoints_dir` is a link, and OSError.
    """
    if checkpoints_dir.is_symlink():
        raise CorruptFileError(checkpoints_dir, "a symbolic link, not a folder")
    for _ in range(_LISTINGS):
        candidates = [found for found in _candidates(checkpoints_dir) if at in (None, found.timestep)]
        checkpoint, skipped, moved = _first_sound(candidates)
        if not moved:
            break
    if checkpoint is None:
        raise NoSoundCheckpointError(checkpoints_dir, skipped)
    return checkpoint


def checkpoint_steps(checkpoints_dir: Path) -> list[int]:
    """Return the timesteps of all checkpoints, sound or not, in ascending order."""
    return sorted({candidate.timestep for candidate in _candidates(checkpoints_dir)})


def _seal(folder: Path, timestep: int, batch: files.Batch) -> None:
    """Sync every file of `folder` that is not yet synced, then write the manifest, then sync the folder."""
    records: dict[str, FileRecord] = {}
    for entry in sorted(folder.iterdir()):
        if not is_plain_name(entry.name) or not stat.S_ISREG(entry.lstat().st_mode):
            raise ValueError(f"a checkpoint may contain plain files only, {entry.name!r} is not one")
        with entry.open("rb", buffering=0) as stream:
            state = os.fstat(stream.fileno())
            if not batch.holds(state):
                files._fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            records[entry.name] = {"size_bytes": state.st_size, "sha256": digest}
    manifest: Manifest = {"format_version": MANIFEST_VERSION, "timestep": timestep, "files": records}
    files.write_json(folder / MANIFEST, manifest)


def _rename_in(new: Path, final: Path) -> None:
    """Rename `new` to `final`. An existing `final` is renamed to its hidden name first."""
    # A rename cannot replace a folder that is not empty.
    if not os.path.lexists(final):
        files._rename(new, final)
        return
    aside = final.with_name(f"{_REPLACED}{final.name}")
    files._remove(aside)
    files._rename(final, aside)
    try:
        files._rename(new, final)
    except BaseException as error:
        try:
            files._rename(aside, final)
        except OSError as second:
            error.add_note(f"the previous {final.name} remains at {aside}: {second}")
        raise


def _prune(checkpoints_dir: Path, timestep: int, keep: int, always: Collection[int]) -> None:
    candidates = [found for found in _candidates(checkpoints_dir) if not (found.published and found.timestep in always)]
    kept = [found.path for found in candidates if found.published and found.timestep <= timestep][:keep]
    for candidate in candidates:
        if candidate.path in kept or (candidate.timestep > timestep and not _is_damaged(candidate.path)):
            continue
        # Hide it first, so that a reader never sees a half-removed checkpoint as a damaged one.
        doomed = checkpoints_dir / f"{_UNPUBLISHED}removed_{candidate.path.name}"
        files._rename(candidate.path, doomed)
        files._remove(doomed)


def _is_damaged(path: Path) -> bool:
    try:
        verify_checkpoint(path)
    except CorruptFileError:
        return True
    except OSError:
        # The error may be temporary. Remove only checkpoints that are certainly damaged.
        return False
    return False


def _remove_unpublished(checkpoints_dir: Path) -> None:
    for entry in [entry for entry in checkpoints_dir.iterdir() if entry.name.startswith(_UNPUBLISHED)]:
        files._remove(entry)


def _candidates(checkpoints_dir: Path) -> list[_Candidate]:
    """List published and replaced checkpoints, newest first. At equal timesteps, the published one is first."""
    found: list[_Candidate] = []
    try:
        with os.scandir(checkpoints_dir) as entries:
            for entry in entries:
                match = CHECKPOINT_NAME.fullmatch(entry.name)
                if match is not None and match["name"] == checkpoint_name(int(match["timestep"])):
                    path = checkpoints_dir / entry.name
                    found.append(_Candidate(int(match["timestep"]), match["replaced"] is None, path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda candidate: (candidate.timestep, candidate.published), reverse=True)


def _first_sound(candidates: list[_Candidate]) -> tuple[Checkpoint | None, tuple[tuple[Path, str], ...], bool]:
    """Return the first sound checkpoint, (path, reason) of those before it, and whether one of those was moved.

    If one was moved, a writer was active, so the caller lists the folder again.
    """
    skipped: list[tuple[Path, str]] = []
    moved = False
    for candidate in candidates:
        with _hold(candidate.path) as inode:
            try:
                manifest = verify_checkpoint(candidate.path)
            except CorruptFileError as error:
                skipped.append((candidate.path, error.reason))
            except OSError as error:
                skipped.append((candidate.path, f"cannot be read: {files.one_line(error)}"))
            else:
                return Checkpoint(candidate.path, manifest, tuple(skipped)), tuple(skipped), moved
            moved = moved or inode is None or _inode(candidate.path) != inode
    return None, tuple(skipped), moved


@contextmanager
def _hold(path: Path) -> Iterator[int | None]:
    """Context manager: yield the inode of `path`, or None if it no longer exists.

    The open descriptor keeps the system from reusing the inode inside the block, even if `path` is removed.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
