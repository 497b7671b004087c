"""What memory there is for this process: the machine's, and the limits that were set on it."""

import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from seer_runtime.system.units import format_size

_V2_FILES = ("memory.max", "memory.high")
_V1_FILES = ("memory.limit_in_bytes",)
# cgroup v1 writes "no limit" as the largest whole number of pages.
_NO_LIMIT_BYTES = 2**60


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes; None where there is no such limit."""

    total_bytes: int
    available_bytes: int  # what could be had now without swapping
    cgroup_bytes: int | None = None  # the least limit of this process's cgroup and those above it
    address_space_bytes: int | None = None  # `ulimit -v`

    def __str__(self) -> str:
        text = f"{format_size(self.total_bytes)}, of which {format_size(self.available_bytes)} are available"
        for name, size_bytes in (("cgroup limit", self.cgroup_bytes), ("ulimit -v", self.address_space_bytes)):
            text += "" if size_bytes is None else f"; {name} {format_size(size_bytes)}"
        return text


def memory_limits(root: Path = Path("/")) -> MemoryLimits:
    """The limits of this process; files of `/proc` and of cgroups are looked up below `root`."""
    memory = psutil.virtual_memory()
    return MemoryLimits(memory.total, memory.available, cgroup_limit_bytes(root), _address_space_bytes())


def _address_space_bytes() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


# --- cgroups ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mount:
    """A mounted cgroup hierarchy that may limit memory."""

    root: PurePosixPath  # the cgroup that is seen at `point`
    point: PurePosixPath
    version: int


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least memory limit of this process's cgroup and of those above it as far as they can be seen, v1 and v2.

    A v2 `memory.high` counts: above it the kernel slows a process down to a crawl. None where nothing limits, and for
    what is missing or malformed.
    """
    paths = dict(_cgroup_paths(_text(root / "proc/self/cgroup")))
    mounts = list(_mounts(_text(root / "proc/self/mountinfo")))
    limits: list[int] = []
    for version, names in ((2, _V2_FILES), (1, _V1_FILES)):
        if version in paths:
            for folder in _folders(paths[version], [mount for mount in mounts if mount.version == version]):
                limits += (limit for name in names if (limit := _limit(root / folder.relative_to("/") / name)))
    return min(limits, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # as of a NUL byte in a path
        return ""


def _cgroup_paths(text: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Version and path of the process's cgroup in each hierarchy that may limit memory."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        place, _, what = line.partition(" - ")
        places, whats = place.split(), what.split()
        if len(places) < 5 or len(whats) < 3 or not places[4].startswith("/"):
            continue
        root, point = (PurePosixPath(_unescaped(field)) for field in places[3:5])
        if whats[0] == "cgroup2":
            yield _Mount(root, point, 2)
        elif whats[0] == "cgroup" and "memory" in whats[2].split(","):
            yield _Mount(root, point, 1)


def _unescaped(field: str) -> str:
    """Blanks and backslashes stand as octal numbers in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _folders(path: PurePosixPath, mounts: list[_Mount]) -> Iterator[PurePosixPath]:
    """The folders of the cgroup `path` and of those above it, up to the mounts' own.

    A container may be told a path that it cannot see; what is mounted is its own cgroup then.
    """
    seen = [mount for mount in mounts if path.is_relative_to(mount.root) and ".." not in path.parts]
    for mount in seen or mounts:
        yield mount.point
        below = path.relative_to(mount.root) if mount in seen else PurePosixPath()
        for depth in range(len(below.parts)):
            yield mount.point.joinpath(*below.parts[: depth + 1])


def _limit(path: Path) -> int | None:
    text = _text(path).strip()
    if re.fullmatch(r"\d{1,20}", text, re.ASCII) is None:  # "max"
        return None
    limit = int(text)
    return limit if 0 < limit < _NO_LIMIT_BYTES else None
