"""Descriptions of exceptions, which may be those of a user's environment."""

import pytest

from seer_edge.errors import describe_error, message_of
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
