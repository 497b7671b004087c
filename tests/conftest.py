"""Configuration of all tests."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import onnxruntime without seer_runtime too

# A time limit for an example would make tests fail on a machine that is busy with other work.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
# Selected by tools/arm64.py with --hypothesis-profile: under emulation, generating examples is slow.
settings.register_profile("emulated", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Restore default signal handlers, which nohup and background jobs disable: the tests send signals to runs."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish() -> None:
    """Exempt torch and the test modules from later garbage collections: each would take 0.2 s, a freeze runs two."""
    gc.freeze()


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Stop flushing subnormal numbers to zero after each test: commands and ONNX Runtime sessions turn it on."""
    yield
    if "torch" in sys.modules or ("onnxruntime" in sys.modules and find_spec("torch") is not None):
        import torch

        torch.set_flush_denormal(False)
