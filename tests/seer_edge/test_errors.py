"""Messages about environments that fail, and about exceptions of any kind."""

import pytest

from seer_edge.envs import EnvOptions, resolve
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import BadInputError, EnvironmentFailedError, describe_error, message_of
from seer_edge.training.metrics import PhaseClock
from seer_edge.training.session import StepReport
from seer_runtime.durable.files import one_line


class UnprintableError(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [UnprintableError(), ValueError()])
def test_an_exception_without_a_message_is_named_by_its_type(error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        described = describe_error(caught)
    assert described.startswith(f"{type(error).__name__} (test_errors.py:")
    assert message_of(error) == ""
    assert one_line(error) == type(error).__name__


def test_a_message_of_several_lines_becomes_one() -> None:
    assert describe_error(ValueError("a\n  b")) == "ValueError: a b"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_missing_module_needs_the_user_also_when_a_run_is_resumed(resumed: bool) -> None:
    expected = pytest.raises(BadInputError, match="seer_test_absent:E: module 'seer_test_absent' cannot be imported")
    with expected, translate_errors("seer_test_absent:E", EnvOptions(), resumed=resumed):
        resolve("seer_test_absent:E")


def test_the_call_that_failed_is_named() -> None:
    expected = pytest.raises(BadInputError, match=r"^--env a:B: reset failed: no picture$")
    with expected, translate_errors("a:B", EnvOptions()):
        raise EnvironmentFailedError("no picture", "reset")


def test_a_clock_that_does_not_advance_gives_no_speed() -> None:
    clock = PhaseClock()
    clock.add("pixel", StepReport(0.0, 1.0, None))
    assert clock.steps_per_second("pixel") is None
