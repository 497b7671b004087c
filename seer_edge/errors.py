"""The few errors that end a command, and the exit status each has."""

EXIT_BAD_INPUT = 2
EXIT_UNSAFE = 75
EXIT_INTERRUPTED = 130


class BadInputError(Exception):
    """What the user gave cannot be used: one line that names the flag or file, the value and the mend."""


class RunStoppedError(Exception):
    """The run ended for its own safety; the last good generation stands."""
