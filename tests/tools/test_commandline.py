"""A tool reports bad input in one line, and its own faults with their traceback."""

import pytest

from seer_edge.errors import BadInputError, EnvironmentFailedError, RunStoppedError
from tools import commandline


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (commandline.BadInputError("--steps 0: give more"), 2, "--steps 0: give more"),
        (BadInputError("--env x: no such game"), 2, "--env x: no such game"),
        (MemoryError("90 TiB"), 2, "not enough memory (90 TiB); ask for less"),
        (commandline.FaultError("no episode has ended"), 1, "no episode has ended"),
        (EnvironmentFailedError("the motor is gone", "step"), 1, "the motor is gone"),
        (RunStoppedError("the loss is not finite"), 1, "the loss is not finite"),
    ],
)
def test_an_error_is_reported_in_one_line(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert commandline.run_tool("membench.py", fail) == status
    assert capsys.readouterr().err == f"membench.py: {line}\n"


def test_a_fault_of_the_tool_keeps_its_traceback() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commandline.run_tool("membench.py", fail)
