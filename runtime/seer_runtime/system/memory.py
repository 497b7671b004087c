"""The memory available to this process: of the machine, of its cgroups and of its address space."""

import re
import resource
import string
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
    """Memory of the machine and limits on this process. None means that the limit is not set."""

    total_bytes: int
    available_bytes: int  # memory that can be allocated now without swapping
    cgroup_bytes: int | None = None  # the lowest limit of this process's cgroup and its ancestors
    address_space_bytes: int | None = None  # `ulimit -v`

    def __str__(self) -> str:
        text = f"{format_size(self.total_bytes)}, of which {format_size(self.available_bytes)} are available"
        for name, size_bytes in (("cgroup limit", self.cgroup_bytes), ("ulimit -v", self.address_space_bytes)):
            text += "" if size_bytes is None else f"; {name} {format_size(size_bytes)}"
        return text


def memory_limits(root: Path = Path("/")) -> MemoryLimits:
    """Return the memory limits of this process. Read `/proc` and the cgroup files below `root`."""
    memory = psutil.virtual_memory()
    return MemoryLimits(memory.total, memory.available, cgroup_limit_bytes(root), _address_space_bytes())


def _address_space_bytes() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


# --- cgroups ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mount:
    """A mounted cgroup hierarchy that may limit memory."""

    root: PurePosixPath  # the cgroup that is mounted at `point`
    point: PurePosixPath
    version: int


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """Return the lowest memory limit, in bytes, of this process's cgroup and its visible ancestors (v1 and v2).

    A v2 `memory.high` counts as a limit, because above it the kernel throttles the process severely. Return None if no
    limit is set. Missing or malformed files count as no limit.
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
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return ""


def _cgroup_paths(text: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield the version and path of the process's cgroup in each hierarchy that may limit memory."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        location, filesystem = before.split(), after.split()
        if len(location) < 5 or len(filesystem) < 3 or not location[4].startswith("/"):
            continue
        root, point = (PurePosixPath(_unescaped(field)) for field in location[3:5])
        if filesystem[0] == "cgroup2":
            yield _Mount(root, point, 2)
        elif filesystem[0] == "cgroup" and "memory" in filesystem[2].split(","):
            yield _Mount(root, point, 1)


def _unescaped(field: str) -> str:
    """Decode the octal escapes that mountinfo uses for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _folders(path: PurePosixPath, mounts: list[_Mount]) -> Iterator[PurePosixPath]:
    """Yield the folders of the cgroup `path` and of its ancestors, down from each mount point.

    In a container, `path` may be outside the mounted hierarchy. The mount point is then the container's own cgroup.
    """
    visible = [mount for mount in mounts if path.is_relative_to(mount.root) and ".." not in path.parts]
    for mount in visible or mounts:
        yield mount.point
        below = path.relative_to(mount.root) if mount in visible else PurePosixPath()
        for depth in range(len(below.parts)):
            yield mount.point.joinpath(*below.parts[: depth + 1])


def _limit(path: Path) -> int | None:
    text = _text(path).strip(string.whitespace)  # without an argument it would remove control characters too
    if re.fullmatch(r"\d{1,20}", text, re.ASCII) is None:  # "max"
        return None
    limit = int(text)
    return limit if 0 < limit < _NO_LIMIT_BYTES else None
