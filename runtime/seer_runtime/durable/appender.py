"""Files that grow by whole records, such as a table of progress."""

import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from seer_runtime.durable import files
from seer_runtime.durable.files import BytesLike


class Appender:
    """A file that is written at its end, one whole record at a time; `size_bytes` is the end of the last one.

    Makes the file where it is missing. Raises OSError, also for a link and for what is not a regular file.
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
            # Or else a crash may take a new file away, however well its records were synced.
            files._fsync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, record: BytesLike) -> None:
        """Write `record` at the end of the file; it is safe from a crash after the next `sync`.

        On an error what was written of it is cut off again: at once, or, where that fails too, before the next record.
        Raises OSError.
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
                error.add_note(f"could not cut {self.path} back either: {second}")
            raise
        self._torn = False
        self.size_bytes += memoryview(record).nbytes

    def sync(self) -> None:
        """Put on the disk what was appended.

        Raises OSError. After that nobody knows what the disk has of the file: this appender is done, and a new one may
        be tried.
        """
        self._check_syncs()
        try:
            files._fsync(self._descriptor)
        except BaseException:
            self._sync_failed = True
            raise

    def close(self) -> None:
        """Close the file, without a sync; once closed it stays so."""
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
            raise OSError(errno.EIO, "an earlier sync failed, records may be lost", str(self.path))
