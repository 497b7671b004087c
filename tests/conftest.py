"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Whoever runs the tests may ignore signals (nohup, jobs in the background): the runs under test must not."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
