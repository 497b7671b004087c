"""Shows that the service comes back: its unit, run by a small supervisor in place of systemd, and killed on the way.

The supervisor does what the unit says of Restart=, RestartPreventExitStatus=, SuccessExitStatus=, WatchdogSec= and
NOTIFY_SOCKET; it limits no memory, changes no user and does not wait for RestartSec=. `systemd-analyze verify` looks
at the rest where there is a systemd.
"""

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from commandline import FaultError, Parser, answer

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "runtime/deploy"
UNIT = DEPLOY / "seer-edge@.service"
INSTALLED = "/opt/seer-edge"
"""Where the unit looks for what it starts."""
PATIENCE_SECONDS = 300
SECONDS = {"s": 1, "min": 60}
HANG_SECONDS = 10
"""In place of WatchdogSec=, where a hang is to be seen: longer than imports, saves and the end of the process take."""
TRAIN = "--env camera_env:Camera-v0 --resolution 25 --mem-budget 1MB --checkpoint-every 150 --eval-episodes 1"


@dataclass(frozen=True)
class Unit:
    """The settings of [Service] that the supervisor heeds, by name; a repeated one has all its values."""

    settings: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Unit":
        """Raises FaultError for a line that is no setting."""
        settings: dict[str, list[str]] = {}
        section = ""
        for line in path.read_text().splitlines():
            if not line or line.startswith(("#", ";")):
                continue
            if line.startswith("["):
                section = line
                continue
            name, equals, value = line.partition("=")
            if not equals:
                raise FaultError(f"{path}: {line!r} is no setting")
            if section == "[Service]":
                settings.setdefault(name, []).append(value)
        return cls(settings)

    def one(self, name: str) -> str:
        """The value of a setting that stands there once."""
        (value,) = self.settings[name]
        return value

    def statuses(self, name: str) -> set[int]:
        """A list of exit statuses."""
        return {int(status) for status in self.one(name).split()}

    def seconds(self, name: str) -> float:
        """A duration: 5min, 30, 30s."""
        value = self.one(name)
        digits = value.rstrip("smin")
        return float(digits) * SECONDS[value[len(digits) :] or "s"]

    def restarts(self, status: int) -> bool:
        """Whether a service that ended with `status` (below zero: by that signal) is started again."""
        if self.one("Restart") != "on-failure":
            raise FaultError(f"this supervisor knows Restart=on-failure, not {self.one('Restart')}")
        clean = {0, *self.statuses("SuccessExitStatus")}
        stops = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}
        return status not in clean | stops | self.statuses("RestartPreventExitStatus")


class Supervisor:
    """Runs the unit for the run `name` in the folder `place`, as installed there. `say` is told of each event."""

    def __init__(self, unit: Unit, place: Path, name: str, say: Callable[[str], None]) -> None:
        self._unit, self._place, self._say = unit, place, say
        self._name = name
        self._watchdog_seconds = unit.seconds("WatchdogSec")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place / "notify"))
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def state(self) -> Path:
        """The state folder of the unit."""
        return self._place / "state" / self._unit.one("StateDirectory")

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.state / self._name

    def serve(self, on_ready: Callable[["Supervisor"], None], watchdog_seconds: float | None = None) -> int:
        """Start, and start again as the unit says; returns the last exit status. Raises FaultError where it hangs.

        `on_ready` is called each time that the service says it is ready.
        """
        interval = watchdog_seconds or self._watchdog_seconds
        while True:
            status = self._once(on_ready, interval)
            if not self._unit.restarts(status):
                self._say(f"ended with {status}, which the unit does not restart")
                return status
            self._say(f"ended with {status}: Restart={self._unit.one('Restart')}")

    def close(self) -> None:
        """End what runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._socket.close()

    def _once(self, on_ready: Callable[["Supervisor"], None], interval: float) -> int:
        self.starts += 1
        with (self._place / "log").open("ab") as log:
            variables = {"NOTIFY_SOCKET": str(self._place / "notify"), "WATCHDOG_USEC": str(int(interval * 1e6))}
            self.process = subprocess.Popen(
                self._command(),
                env={**os.environ, **variables, "PATH": f"{self._place}/venv/bin:{os.environ['PATH']}"},
                cwd=self._place,
                stdout=log,
                stderr=log,
            )
        self._say(f"started as process {self.process.pid}")
        ready, heard, begin = False, 0.0, time.monotonic()
        while (status := self.process.poll()) is None:
            for message in self._messages():
                heard = time.monotonic()
                if message == b"READY=1" and not ready:
                    ready = True
                    self._say("said that it is ready")
                    on_ready(self)
            if ready and time.monotonic() - heard > interval:
                self._say(f"nothing heard for {interval:g} s: WatchdogSec")
                self.process.send_signal(signal.SIGABRT)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                self.process.kill()
                self.process.wait()
            if time.monotonic() - begin > PATIENCE_SECONDS:
                self.process.kill()
                raise FaultError(f"the service runs for longer than {PATIENCE_SECONDS} s; its log is {self._place}/log")
        return status

    def _messages(self) -> Iterator[bytes]:
        self._socket.settimeout(0.05)
        with suppress(TimeoutError):
            while True:
                yield self._socket.recv(4096)

    def _command(self) -> list[str]:
        flags = ""
        for line in (self._place / "conf").read_text().splitlines():
            name, _, value = line.partition("=")
            flags = value.strip('"') if name == "TRAIN" else flags
        words: list[str] = []
        for word in shlex.split(self._unit.one("ExecStart")):
            filled = word.replace("%i", self._name).replace("%S", str(self._place / "state"))
            words += flags.split() if word == "$TRAIN" else [filled.replace(INSTALLED, str(self._place))]
        return words


def install(place: Path, train: str) -> None:
    """Lay out in `place` what the unit expects in /opt/seer-edge, with these flags of `train`."""
    shutil.copy(DEPLOY / "train-or-resume", place)
    shutil.copy(PROJECT / "docs/examples/camera_env.py", place)
    (place / "conf").write_text(f'TRAIN="{train}"\n')
    command = place / "venv/bin/seer-edge"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seer_edge "$@"\n')
    command.chmod(0o755)
    (place / "state/seer-edge").mkdir(parents=True)


def drill(place: Path, steps: int, hang: bool, say: Callable[[str], None]) -> Supervisor:
    """Kill the service once it has a checkpoint on the way, then let it `hang`; it has to finish all the same.

    Raises FaultError where it does not.
    """
    install(place, f"{TRAIN} --total-timesteps {steps}")
    supervisor = Supervisor(Unit.read(UNIT), place, "drill", say)

    def harm(service: Supervisor) -> None:
        assert service.process is not None
        if service.starts == 1:
            _wait_for_checkpoint(service)
            say(f"kill -9 {service.process.pid}")
            service.process.kill()
        elif service.starts == 2 and hang:
            say(f"kill -STOP {service.process.pid}: it hangs")
            service.process.send_signal(signal.SIGSTOP)

    try:
        status = supervisor.serve(harm, watchdog_seconds=HANG_SECONDS if hang else None)
    finally:
        supervisor.close()
    if status != 0:
        raise FaultError(f"the service ended with {status}; its log is {place}/log")
    return supervisor


def _wait_for_checkpoint(service: Supervisor) -> None:
    """One after step 0."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(service.run.glob("checkpoints/step_*[1-9]*")):
        if time.monotonic() > deadline:
            raise FaultError(f"there was no checkpoint for {PATIENCE_SECONDS} s")
        time.sleep(0.05)


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(description="Kill the service and see it come back.", formatter_class=argparse.HelpFormatter)
    parser.add_argument("--hang", action="store_true", help="let it hang too, for the watchdog")
    flags = parser.parse_args()
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True)

    def run() -> int:
        with tempfile.TemporaryDirectory() as place:
            supervisor = drill(Path(place), 1_500, flags.hang, say)
            print((Path(place) / "log").read_text().rpartition("evaluation")[0].splitlines()[-1])
            say(f"finished after {supervisor.starts} starts")
        return 0

    return answer("service_drill.py", run)


if __name__ == "__main__":
    sys.exit(main())
