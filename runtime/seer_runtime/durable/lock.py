"""One writer a folder: a lock that the kernel lets go of when its process ends, however it ends."""

import contextlib
import fcntl
import os
from pathlib import Path


class FolderBusyError(Exception):
    """Another process holds the folder's lock; `pid` is its number where the system tells."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        return f"{self.path}: in use by {'another process' if self.pid is None else f'process {self.pid}'}"


class FolderLock:
    """Holds `path`, a folder, for this process until `release`; nothing is written, so nothing is left behind.

    Raises FolderBusyError where another holder has it, OSError where the file system knows no locks.
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
        """Let others have the folder."""
        os.close(self._descriptor)


def _holder(descriptor: int) -> int | None:
    """The process that holds a lock on the folder, from Linux's list of all locks."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = os.fstat(descriptor).st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return int(fields[4])
    return None
