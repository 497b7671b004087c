"""A robot that trains in real time in its own process, and helpers that watch it."""

import json
import os
import re
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seer_edge.runs import checkpoint
from tests.end_to_end.robot_env import events
from tests.faults import runs

ROBOT = "tests.end_to_end.robot_env:Robot-v0"
SHORT: tuple[str, ...] = (
    *("--hz", "100", "--mem-budget", "1MB", "--freeze-at", "never", "--eval-every", "never", "--log-every", "50"),
    *("--set", "batch_size=8", "--set", "learning_starts=20", "--set", "hidden=16"),
)


class Robot:
    """A robot, and the program that trains on it in `folder`."""

    def __init__(self, folder: Path, *words: str, prepare: Callable[[Any], None] | None = None, **kwargs: Any) -> None:
        self.log, self.run, self.messages = folder / "robot", folder / "run", folder / "messages"
        self.stopped = folder / "robot.stopped"
        given = json.dumps({"log": str(self.log), **kwargs})
        command = ("train", "--env", ROBOT, "--env-kwargs", given, "--run-dir", self.run, *SHORT, *words)
        self.child = runs.start(self.messages, runs.command, *command, prepare=prepare)

    @property
    def events(self) -> list[str]:
        return events(self.log) if self.log.exists() else []

    def wait_for(self, happened: Callable[[], bool]) -> None:
        def either() -> bool:
            assert self.child.process.is_alive(), self.messages.read_text()
            return happened()

        runs.wait_until(either, 120)

    def wait_for_steps(self, count: int = 10) -> None:
        """Wait for steps of the control loop, which begins with rest."""
        self.wait_for(lambda: self.events.count("step") >= count)

    def signal(self, number: int) -> None:
        os.kill(self.child.process.pid or 0, number)

    @property
    def shown_status(self) -> str:
        """The status on the page of --status-port."""
        (address,) = re.findall("status at (http://.*/)", self.messages.read_text())
        with urllib.request.urlopen(f"{address}status.json", timeout=60) as answer:
            return str(json.load(answer)["status"])

    @property
    def written_status(self) -> str:
        """The status in `summary.json`, which `report --follow` shows."""
        return str(json.loads((self.run / "summary.json").read_text())["status"])

    @property
    def saved_at(self) -> int:
        return checkpoint.newest(self.run / "checkpoints").timestep


def log_checkpoints(log: Path, send: Any) -> None:
    """Write the line "checkpoint" to the robot's log before one is written."""

    def log_checkpoint(step: int) -> None:
        with log.open("a") as lines:
            lines.write("checkpoint\n")

    runs.around_saves(log_checkpoint)


def log_savers(log: Path, send: Any) -> None:
    """Write the identity of the thread that saves to `log` before each checkpoint is written."""

    def log_saver(step: int) -> None:
        with log.open("a") as lines:
            lines.write(f"{threading.get_native_id()}\n")

    runs.around_saves(log_saver)
