"""The few errors that end a command, and the exit status each has."""

import traceback
from pathlib import Path

EXIT_BAD_INPUT = 2
EXIT_UNSAFE = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as a process that SIGPIPE ends


class BadInputError(Exception):
    """What the user gave cannot be used: one line that names the flag or file, the value and the mend."""


class EnvironmentFailedError(Exception):
    """The environment raised, or showed what no environment may show; agent and replay are sound."""


def origin(error: BaseException) -> str:
    """An exception in one line: its type, its message and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


class RunStoppedError(Exception):
    """The run ended for its own safety; the last good generation stands."""
