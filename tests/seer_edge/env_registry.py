"""What the tests of environments share: ids that Gymnasium knows for one test only, fresh interpreters."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec as Registered


def register(monkeypatch: pytest.MonkeyPatch, env_id: str, **options: Any) -> None:
    """Register `env_id` for as long as the test lasts."""
    monkeypatch.setitem(gymnasium.registry, env_id, Registered(env_id, **options))


def fresh(code: str, **variables: str) -> str:
    """What `code` prints in an interpreter of its own, whose environment has `variables` too."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout + done.stderr
