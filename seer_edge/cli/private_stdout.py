"""Keep stdout for what the command prints: what an environment or a library writes to it goes to stderr."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO, cast

STDOUT, STDERR = 1, 2


class OwnThreadStream:
    """A text stream for the thread that created it. Text of other threads goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._owner = threading.get_ident()

    def write(self, text: str) -> int:
        """Write `text` to the stream of this thread."""
        return (self._stream if threading.get_ident() == self._owner else sys.stderr).write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def private_stdout() -> Iterator[None]:
    """Make `sys.stdout` a private stream inside, and descriptor 1, which C libraries write to, a copy of stderr.

    The streams of a test or a notebook, which are not descriptor 1, only become private to this thread.
    """
    before, private = sys.stdout, None
    if before is not None and _descriptor(before) == STDOUT:
        before.flush()
        private = os.dup(STDOUT)
        binary = os.fdopen(private, "wb", closefd=False)
        stream: TextIO = io.TextIOWrapper(binary, before.encoding, before.errors, line_buffering=before.isatty())
        _copy(STDERR, STDOUT)
    else:
        stream = before
    try:
        if stream is not None:
            sys.stdout = cast(TextIO, OwnThreadStream(stream))
        yield
    finally:
        sys.stdout = before
        if private is not None:
            with contextlib.suppress(OSError):
                stream.flush()
            _copy(private, STDOUT)
            os.close(private)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _copy(source: int, target: int) -> None:
    """Make the descriptor `target` a copy of `source`, or of /dev/null if that is closed."""
    try:
        os.dup2(source, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), target)
