"""Output that cannot be written any more, by a full disk, a closed terminal or a dead reader, never ends a run."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast


class Patient:
    """A text stream; from its first OSError on, what is written to it goes nowhere.

    A broken pipe is passed on where `passes_broken_pipes`: a reader that leaves early wants no more.
    """

    def __init__(self, stream: TextIO, *, passes_broken_pipes: bool = False) -> None:
        self._stream = stream
        self._passes_broken_pipes = passes_broken_pipes

    def write(self, text: str) -> int:
        """Write `text`, or drop it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what was written, or drop it."""
        self._try(self._stream.flush)

    def _try(self, act: Any) -> None:
        try:
            act()
        except BrokenPipeError:
            if self._passes_broken_pipes:
                raise
            self._give_up()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # The interpreter flushes what is still buffered as it ends, and would complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_output() -> Iterator[None]:
    """Inside, stdout and stderr are `Patient`; a stream that was closed before the start goes nowhere."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = cast(TextIO, Patient(sys.stdout or nowhere, passes_broken_pipes=True))
        sys.stderr = cast(TextIO, Patient(sys.stderr or nowhere))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
