"""Settings and fixtures of all tests."""

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# tools/arm64.py selects this with --hypothesis-profile: under emulation, drawing examples is slow.
settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Restore default signal handlers. Background jobs and nohup ignore signals, and the runs under test would too."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Undo `set_flush_denormal`, which commands run in this process leave on."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
