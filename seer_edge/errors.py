"""The errors that end a command, and their exit statuses."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

EXIT_BAD_INPUT = 2
EXIT_UNSAFE = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # the shell's status for a process that SIGPIPE ended


class BadInputError(Exception):
    """Invalid input of the user. The message is one line with the flag or file, the value and what to do."""


class EnvironmentFailedError(Exception):
    """The environment raised, or returned an invalid frame, reward or done flag. Agent and replay are unaffected.

    Attributes:
        call: the call that failed, such as "reset"; None if it is not known.

    """

    def __init__(self, message: str, call: str | None = None) -> None:
        super().__init__(message)
        self.call = call


@contextlib.contextmanager
def written_to(flag: str, path: Path, kind: str = "folder") -> Iterator[None]:
    """Context manager: report an OSError as BadInputError, because `path`, which `flag` names, cannot be written.

    `kind` is "file" or "folder".
    """
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{flag} {path}: cannot be written ({error.strerror}); name another {kind}") from error


def describe_error(error: BaseException) -> str:
    """Describe an exception in one line: its type, its message, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = message_of(error)
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def message_of(error: BaseException) -> str:
    """Return the message of an exception in one line, or nothing if it has none that can be read."""
    try:
        return " ".join(str(error).split())
    except Exception:  # the exception may be a user's, with any `__str__`
        return ""


class RunStoppedError(Exception):
    """The run stopped to avoid damage. Its last good checkpoint is kept."""


class StepEndedError(Exception):
    """The run is to stop while the environment discards its steps, so this step will not be stored."""
