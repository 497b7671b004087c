"""Helpers of the environment tests: temporary Gymnasium ids and code run in a new interpreter."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec as Registered


def register(monkeypatch: pytest.MonkeyPatch, env_id: str, **options: Any) -> None:
    """Register `env_id` with Gymnasium until the test ends."""
    monkeypatch.setitem(gymnasium.registry, env_id, Registered(env_id, **options))


def fresh(code: str, **variables: str) -> str:
    """Run `code` in a new interpreter with extra environment variables; return its stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout + done.stderr
