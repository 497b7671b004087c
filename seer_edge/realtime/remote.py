"""The commands of `--control-socket`."""

import time

from seer_edge.envs.paced import IDLE_SECONDS
from seer_edge.machine.signals import PauseSignal, StopSignal
from seer_edge.realtime.session import RealTimeSession

PAUSE_SECONDS = 5.0
"""How long the answer to `pause` waits for the environment to be at rest."""
SHOWN_CHARACTERS = 40


class Remote:
    """Obeys `pause`, `resume`, `status` and `stop`."""

    def __init__(self, session: RealTimeSession, stop: StopSignal, paused: PauseSignal) -> None:
        self._session, self._stop, self._paused = session, stop, paused

    def obey(self, command: str) -> str:
        """Obey one command; return the state that the run is in then. `pause` waits until the environment is at rest.

        "pausing" is the state until then.
        """
        if command == "pause":
            self._paused.set(True)
            self._wait_for_pause()
        elif command == "resume":
            self._paused.set(False)
        elif command == "stop":
            self._stop.request()
        elif command != "status":
            return f"error: unknown command {command[:SHOWN_CHARACTERS]!r}; give pause, resume, status or stop"
        return f"{self._state()}, step {self._session.timestep:,} of {self._session.config.total_timesteps:,}"

    def _wait_for_pause(self) -> None:
        deadline = time.monotonic() + PAUSE_SECONDS
        while self._state() == "pausing" and time.monotonic() < deadline:
            time.sleep(IDLE_SECONDS)

    def _state(self) -> str:
        if self._stop():
            return "stopping"
        if self._session.is_paused:
            return "paused"
        return "pausing" if self._paused() else "running"
