"""What the tests of environments share: ids that Gymnasium knows for one test only."""

from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec as Registered


def register(monkeypatch: pytest.MonkeyPatch, env_id: str, **options: Any) -> None:
    """Register `env_id` for as long as the test lasts."""
    monkeypatch.setitem(gymnasium.registry, env_id, Registered(env_id, **options))
