"""Log records and results on the terminal. An output that nobody reads any more never ends a run.

Everything that a command reports while it works is a record of the logger "seer_edge". Plan and folder of a run go to
stdout, as the results of a command do, and everything else goes to stderr. A full disk, a closed terminal or a dead
reader must not end a training run. A handler that ignores errors would not be enough: the progress bar, and whatever
the user's environment prints, also write to these streams. So the streams themselves are made tolerant.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from seer_edge.errors import BadInputError, written_to
from seer_edge.validation import check_target

LOG = logging.getLogger("seer_edge")
OUTPUT = logging.getLogger("seer_edge.output")
TIMED = "%(asctime)s %(levelname)s %(message)s"


class TolerantStream:
    """A text stream that discards what is written to it after its first OSError.

    With `passes_broken_pipes` a BrokenPipeError is raised instead: a reader such as `head` has seen enough.

    Attributes:
        failure: that error; None before it.

    """

    def __init__(self, stream: TextIO, *, passes_broken_pipes: bool = False) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        self._passes_broken_pipes = passes_broken_pipes

    def write(self, text: str) -> int:
        """Write `text`, or discard it. Characters that the stream cannot encode are written as escapes."""
        self._try(lambda: self._stream.write(self._encodable(text)))
        return len(text)

    def _encodable(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def flush(self) -> None:
        """Flush the stream, or discard what it holds."""
        self._try(self._stream.flush)

    def _try(self, call: Any) -> None:
        try:
            call()
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._passes_broken_pipes:
                raise
            self.failure = error
            self._discard()

    def _discard(self) -> None:
        # The interpreter flushes buffered text when it exits, and would print an error.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class TerminalHandler(logging.Handler):
    """Write each record as one line to stdout (the logger "seer_edge.output") or stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. Raises BrokenPipeError if the reader of stdout has left."""
        stream = sys.stdout if record.name == OUTPUT.name else sys.stderr
        with _bar_hidden(stream):
            stream.write(self.format(record) + "\n")
            stream.flush()


class TerminalFormatter(logging.Formatter):
    """The message, with "warning: " before warnings."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of one record."""
        return ("warning: " if record.levelno == logging.WARNING else "") + super().format(record)


class FileHandler(logging.FileHandler):
    """Append records to a file until the first error, which is reported once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in `logging`)
        """Stop writing, and say why."""
        LOG.removeHandler(self)
        reason = getattr(sys.exception(), "strerror", None) or "error"
        LOG.warning("--log-file %s: cannot be written any more (%s); continuing without it", self.baseFilename, reason)


@contextlib.contextmanager
def _bar_hidden(stream: Any) -> Iterator[None]:
    if sys.modules.get("tqdm") is None:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=stream):
        yield


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Make stdout and stderr tolerant inside, and log to them. A stream that was closed at the start is discarded."""
    before = sys.stdout, sys.stderr
    handler = TerminalHandler(logging.INFO)
    handler.setFormatter(TerminalFormatter())
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = cast(TextIO, TolerantStream(sys.stdout or nowhere, passes_broken_pipes=True))
        sys.stderr = cast(TextIO, TolerantStream(sys.stderr or nowhere))
        level, propagates = LOG.level, LOG.propagate
        LOG.setLevel(logging.DEBUG)
        LOG.propagate = False
        handlers, LOG.handlers = LOG.handlers, [handler]
        try:
            yield
        finally:
            for added in LOG.handlers:
                added.close()
            LOG.handlers, LOG.propagate = handlers, propagates
            LOG.setLevel(level)
            sys.stdout, sys.stderr = before


def configure(*, quiet: bool, verbose: bool, log_file: Path | None) -> None:
    """Set what the terminal shows, and log everything to `log_file` too. Raises BadInputError if it cannot be written.

    Quiet shows warnings and errors. Verbose shows details and the time of each record.
    """
    [terminal] = LOG.handlers
    terminal.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    if verbose:
        terminal.setFormatter(logging.Formatter(TIMED))
    if log_file is None:
        return
    check_target("--log-file", log_file)
    with written_to("--log-file", log_file, "file"):
        _check_is_log(log_file)
        file = FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
    file.setLevel(logging.DEBUG)
    file.setFormatter(logging.Formatter(TIMED))
    LOG.addHandler(file)


def _check_is_log(path: Path) -> None:
    """Raise BadInputError for a file that holds something else, such as a table of a run. Raises OSError."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        begins = file.read(len("2000-01-01 "))
    if begins and not re.fullmatch(rb"\d{4}-\d\d-\d\d ", begins):
        raise BadInputError(f"--log-file {path}: is there already, and is not a log; name another file")


def print_result(text: str) -> None:
    """Print the result of a command to stdout. Raises BadInputError if a full disk or the like loses it."""
    print(text, flush=True)
    failure = getattr(sys.stdout, "failure", None)
    if failure is not None:
        raise BadInputError(f"stdout: cannot be written ({failure.strerror}); send the result elsewhere")
