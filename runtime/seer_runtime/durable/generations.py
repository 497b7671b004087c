"""Generations (checkpoints): folders that become visible by one rename, each with a manifest of its files.

By the manifest's sizes and SHA-256 sums a reader tells a sound generation from a damaged one.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_runtime.durable import files
from seer_runtime.durable.files import CorruptFileError
from seer_runtime.durable.manifest import (
    GENERATION,
    MANIFEST,
    MANIFEST_VERSION,
    FileRecord,
    Manifest,
    check_generation,
    compare,
    is_plain_name,
)

_UNPUBLISHED = ".tmp_"
_REPLACED = ".replaced_"
_LISTINGS = 50  # a reader starts over that often while a writer changes what it reads


class NoSoundGenerationError(Exception):
    """No generation can be loaded; `skipped` holds (path, reason) of those that are there, newest first."""

    def __init__(self, checkpoints_dir: Path, skipped: tuple[tuple[Path, str], ...]) -> None:
        super().__init__(checkpoints_dir, skipped)
        self.checkpoints_dir = checkpoints_dir
        self.skipped = skipped

    @property
    def reason(self) -> str:
        """What was found instead."""
        if not self.skipped:
            return "no checkpoint was published here"
        return f"no sound checkpoint ({'; '.join(f'{path.name}: {reason}' for path, reason in self.skipped)})"

    def __str__(self) -> str:
        return f"{self.checkpoints_dir}: {self.reason}"


@dataclass(frozen=True)
class Generation:
    """A generation found sound, and (path, reason) of the newer ones that were not, newest first."""

    path: Path
    manifest: Manifest
    skipped: tuple[tuple[Path, str], ...]

    def read_bytes(self, name: str, at_most_bytes: int) -> bytes:
        """The content of file `name`: the very bytes returned have the manifest's size and SHA-256.

        Raises CorruptFileError where they do not, or where there is no such file or a larger one, and OSError.
        """
        record = self.manifest["files"].get(name)
        if record is None:
            raise CorruptFileError(self.path, f"has no {name!r}")
        data = files.read_bytes(self.path / name, at_most_bytes)
        compare(self.path, name, record, len(data), hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, name: str, at_most_bytes: int = files.JSON_BYTES) -> Any:
        """The value in the JSON file `name`. Raises CorruptFileError as `read_bytes` and `files.parse_json` do."""
        return files.parse_json(self.path / name, self.read_bytes(name, at_most_bytes))


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

    `write` makes plain files, no folders or links, and none named `manifest.json`; those that it does not make with
    `write_atomic` are synced here. If it or anything up to the rename fails, the error propagates and nothing is
    published.

    The generation of the same timestep, if there is one, is set aside under a hidden name, the new one renamed in,
    the old one removed; `newest_generation` also looks at what was set aside, so there is no moment without it.

    Once the new generation is on the disk, older ones are removed until `keep` are left with it. A newer
    one, from which the run therefore did not go on, is removed if it is damaged and else left alone. What killed
    writers left is removed, too. An OSError from this tidying, or from the last sync, comes after the publication.

    Raises ValueError for a negative timestep, `keep` below 1 and files that cannot be published; OSError, also where
    `checkpoints_dir` is a link.
    """
    if timestep < 0 or keep < 1:
        raise ValueError(f"timestep {timestep} and keep {keep}: at least 0 and 1 are needed")
    if checkpoints_dir.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a symbolic link, no folder", str(checkpoints_dir))
    files.make_folder(checkpoints_dir)
    # Before writing: on a small disk their room is needed.
    _remove_unpublished(checkpoints_dir)
    final = checkpoints_dir / generation_name(timestep)
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
    _prune(checkpoints_dir, timestep, keep)
    return final


def newest_generation(checkpoints_dir: Path) -> Generation:
    """The newest generation whose every file is as its manifest says; changes nothing on the disk.

    A writer may publish and remove generations meanwhile. Raises NoSoundGenerationError where there is none, or no such
    folder; CorruptFileError where `checkpoints_dir` is a link; OSError.
    """
    if checkpoints_dir.is_symlink():
        raise CorruptFileError(checkpoints_dir, "a symbolic link, no folder")
    for _ in range(_LISTINGS):
        generation, skipped, moved = _first_sound(_candidates(checkpoints_dir))
        if not moved:
            break
    if generation is None:
        raise NoSoundGenerationError(checkpoints_dir, skipped)
    return generation


def _seal(folder: Path, timestep: int, batch: files.Batch) -> None:
    """Sync every file of `folder` that is not, then write the manifest, then sync the folder."""
    records: dict[str, FileRecord] = {}
    for entry in sorted(folder.iterdir()):
        if not is_plain_name(entry.name) or not stat.S_ISREG(entry.lstat().st_mode):
            raise ValueError(f"a generation holds plain files only, {entry.name!r} is not one")
        with entry.open("rb", buffering=0) as stream:
            state = os.fstat(stream.fileno())
            if not batch.holds(state):
                files._fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            records[entry.name] = {"size_bytes": state.st_size, "sha256": digest}
    manifest: Manifest = {"format_version": MANIFEST_VERSION, "timestep": timestep, "files": records}
    files.write_json(folder / MANIFEST, manifest)


def _rename_in(new: Path, final: Path) -> None:
    """Rename `new` to `final`; a former `final` is left aside under its hidden name."""
    # A folder cannot replace a filled one in one rename.
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
        files._rename(candidate.path, doomed)
        files._remove(doomed)


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
        files._remove(entry)


def _candidates(checkpoints_dir: Path) -> list[_Candidate]:
    """Published generations and those set aside, newest first, a published one before its predecessor."""
    found: list[_Candidate] = []
    try:
        with os.scandir(checkpoints_dir) as entries:
            for entry in entries:
                match = GENERATION.fullmatch(entry.name)
                if match is not None and match["name"] == generation_name(int(match["timestep"])):
                    path = checkpoints_dir / entry.name
                    found.append(_Candidate(int(match["timestep"]), match["replaced"] is None, path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda candidate: (candidate.timestep, candidate.published), reverse=True)


def _first_sound(candidates: list[_Candidate]) -> tuple[Generation | None, tuple[tuple[Path, str], ...], bool]:
    """The first sound one, (path, reason) of those before it, and whether one of these was moved meanwhile."""
    skipped: list[tuple[Path, str]] = []
    moved = False
    for candidate in candidates:
        with _hold(candidate.path) as inode:
            try:
                manifest = check_generation(candidate.path)
            except CorruptFileError as error:
                skipped.append((candidate.path, error.reason))
            except OSError as error:
                skipped.append((candidate.path, f"cannot be read: {files.one_line(error)}"))
            else:
                return Generation(candidate.path, manifest, tuple(skipped)), tuple(skipped), moved
            moved = moved or inode is None or _inode(candidate.path) != inode
    return None, tuple(skipped), moved


@contextmanager
def _hold(path: Path) -> Iterator[int | None]:
    """Its inode, which no other file gets inside even if `path` is removed; None where there is none any more."""
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
