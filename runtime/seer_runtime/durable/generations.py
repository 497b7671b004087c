"""Generations (checkpoints): folders that become visible by one rename, each with a manifest of its files.

By the manifest's sizes and SHA-256 sums a reader tells a sound generation from a damaged one.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from seer_runtime.durable import files
from seer_runtime.durable.files import CorruptFileError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_UNPUBLISHED = ".tmp_"
_REPLACED = ".replaced_"
_GENERATION = re.compile(r"(?P<replaced>\.replaced_)?(?P<name>step_(?P<timestep>\d{10,}))", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


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
    files.make_folder(checkpoints_dir)
    # Before writing: on a small disk their room is needed.
    _remove_unpublished(checkpoints_dir)
    final = checkpoints_dir / generation_name(timestep)
    new = checkpoints_dir / f"{_UNPUBLISHED}{final.name}"
    try:
        files._make_folder(new)
        write(new)
        _seal(new, timestep)
        _rename_in(new, final)
    except BaseException as error:
        files.remove_after(error, new)
        raise
    files._fsync_folder(checkpoints_dir)
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
            skipped.append((candidate.path, f"cannot be read: {files.one_line(error)}"))
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
        manifest = files.read_json(path / MANIFEST)
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
    records: dict[str, FileRecord] = {}
    for entry in sorted(folder.iterdir()):
        if not _is_plain_name(entry.name) or not stat.S_ISREG(entry.lstat().st_mode):
            raise ValueError(f"a generation holds plain files only, {entry.name!r} is not one")
        with entry.open("rb", buffering=0) as stream:
            files._fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            records[entry.name] = {"size_bytes": os.fstat(stream.fileno()).st_size, "sha256": digest}
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
    for path in checkpoints_dir.iterdir() if checkpoints_dir.is_dir() else ():
        match = _GENERATION.fullmatch(path.name)
        if match is not None and match["name"] == generation_name(int(match["timestep"])):
            found.append(_Candidate(int(match["timestep"]), match["replaced"] is None, path))
    return sorted(found, key=lambda candidate: (candidate.timestep, candidate.published), reverse=True)
