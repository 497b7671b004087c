"""A lock that allows one writer per folder. The kernel releases it when the process ends, even after a kill."""

import contextlib
import fcntl
import os
from pathlib import Path


class FolderBusyError(Exception):
    """Raised if another process holds the lock of the folder. `pid` is its process ID, or None if unknown."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        return f"{self.path}: in use by {'another process' if self.pid is None else f'process {self.pid}'}"


class FolderLock:
    """An exclusive lock on the folder `path`, held by this process until `release`. It leaves no file behind.

    Raises FolderBusyError if another process holds the lock, and OSError if the file system does not support locks.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise FolderBusyError(path, holder) from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _holder(descriptor: int) -> int | None:
    """Return the ID of the process that locks the folder, from `/proc/locks`, or None if it is not listed."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = os.fstat(descriptor).st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return int(fields[4])
    return None
