"""Files that grow by whole records, such as `progress.csv`."""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from seer_runtime.durable import files
from seer_runtime.durable.files import BytesLike


class Appender:
    """A file to which whole records are appended. `size_bytes` is the end of the last whole record.

    Creates the file if it is missing. Raises OSError, also if `path` is a link or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn = False
        self._sync_failed = False
        self._descriptor = files._open_append(path)
        try:
            state = os.fstat(self._descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            self.size_bytes = state.st_size
            # Without this sync, a crash may remove a new file even if its records were synced.
            files._fsync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, record: BytesLike) -> None:
        """Write `record` to the end of the file. It survives a crash only after the next `sync`.

        If the write fails, the partial record is cut off again. If that fails too, the next call of `append` cuts it
        off before it writes. Raises OSError.
        """
        self._check_syncs()
        if self._torn:
            self._cut()
        self._torn = True
        try:
            files.write_all(self._descriptor, record)
        except BaseException as error:
            try:
                self._cut()
            except OSError as second:
                error.add_note(f"could not remove the partial record from {self.path}: {second}")
            raise
        self._torn = False
        self.size_bytes += memoryview(record).nbytes

    def sync(self) -> None:
        """Flush all appended records to the disk.

        Raises OSError. After a failed sync, the content of the file on the disk is unknown, so `append` and `sync` of
        this appender fail from then on. Open a new appender to try again.
        """
        self._check_syncs()
        try:
            files._fsync(self._descriptor)
        except BaseException:
            self._sync_failed = True
            raise

    def close(self) -> None:
        """Close the file without a sync. Further calls have no effect."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> "Appender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self) -> None:
        files._truncate(self._descriptor, self.size_bytes)
        self._torn = False

    def _check_syncs(self) -> None:
        if self._sync_failed:
            raise OSError(errno.EIO, "an earlier sync failed, so records may be lost", str(self.path))
