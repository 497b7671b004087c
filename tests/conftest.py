"""What holds for all tests."""

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# For --hypothesis-profile, as tools/arm64.py gives it: what it takes to draw is the emulator's.
settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Whoever runs the tests may ignore signals (nohup, jobs in the background): the runs under test must not."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """A command lets its thread flush subnormal numbers to zero; the tests after it must not."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
