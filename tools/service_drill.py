"""Show that the service recovers: run its unit under a small supervisor instead of systemd, and kill it.

The supervisor follows Restart=, RestartPreventExitStatus=, SuccessExitStatus=, WatchdogSec= and NOTIFY_SOCKET of the
unit. It does not limit memory, change the user or wait for RestartSec=. A test checks the rest with
`systemd-analyze verify` where systemd is installed.
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

from commandline import FaultError, Parser, run_tool

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "runtime/deploy"
UNIT = DEPLOY / "seer-edge@.service"
INSTALLED = "/opt/seer-edge"
"""The folder in which the unit expects its programs."""
PATIENCE_SECONDS = 300
SECONDS = {"s": 1, "min": 60}
HANG_SECONDS = 10
"""Replaces WatchdogSec= in the test of a hang. It is longer than imports, checkpoints and the end of a process."""
TRAIN = "--env camera_env:Camera-v0 --resolution 25 --mem-budget 1MB --checkpoint-every 150 --eval-episodes 1"


@dataclass(frozen=True)
class Unit:
    """The settings in [Service], by name, each with all of its values."""

    settings: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Unit":
        """Parse a unit file. Raises FaultError for a line that is not a setting."""
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
                raise FaultError(f"{path}: {line!r} is not a setting")
            if section == "[Service]":
                settings.setdefault(name, []).append(value)
        return cls(settings)

    def one(self, name: str) -> str:
        """Return the value of a setting that occurs once."""
        (value,) = self.settings[name]
        return value

    def statuses(self, name: str) -> set[int]:
        """Return a setting as a set of exit statuses."""
        return {int(status) for status in self.one(name).split()}

    def seconds(self, name: str) -> float:
        """Return a duration such as 5min, 30 or 30s in seconds."""
        value = self.one(name)
        digits = value.rstrip("smin")
        return float(digits) * SECONDS[value[len(digits) :] or "s"]

    def restarts(self, status: int) -> bool:
        """Return whether the unit restarts a service that ended with `status`; a negative one is a signal's number."""
        if self.one("Restart") != "on-failure":
            raise FaultError(f"this supervisor supports Restart=on-failure only, not {self.one('Restart')}")
        clean = {0, *self.statuses("SuccessExitStatus")}
        stops = {-signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}
        return status not in clean | stops | self.statuses("RestartPreventExitStatus")


class Supervisor:
    """Supervisor of the unit for the run `name`, installed in the folder `place`. It calls `log` for each event."""

    def __init__(self, unit: Unit, place: Path, name: str, log: Callable[[str], None]) -> None:
        self._unit, self._place, self._log = unit, place, log
        self._name = name
        self._watchdog_seconds = unit.seconds("WatchdogSec")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place / "notify"))
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def state(self) -> Path:
        """The unit's state folder."""
        return self._place / "state" / self._unit.one("StateDirectory")

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.state / self._name

    def serve(self, on_ready: Callable[["Supervisor"], None], watchdog_seconds: float | None = None) -> int:
        """Start the service and restart it as the unit says; return the last exit status.

        Call `on_ready` each time that the service reports that it is ready. Raises FaultError where it runs too long,
        and where it would be restarted without having been ready, because that could go on without end.
        """
        interval = watchdog_seconds or self._watchdog_seconds
        while True:
            status, was_ready = self._once(on_ready, interval)
            if not self._unit.restarts(status):
                self._log(f"ended with {status}, which the unit does not restart")
                return status
            if not was_ready:
                raise FaultError(f"the service ended with {status} before it was ready; {end_of_log(self._place)}")
            self._log(f"ended with {status}: Restart={self._unit.one('Restart')}")

    def close(self) -> None:
        """Kill the service if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._socket.close()

    def _once(self, on_ready: Callable[["Supervisor"], None], interval: float) -> tuple[int, bool]:
        """Run the service until it ends; return its exit status, and whether it was ready."""
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
        self._log(f"started as process {self.process.pid}")
        ready, heard, begin = False, 0.0, time.monotonic()
        while (status := self.process.poll()) is None:
            for message in self._messages():
                heard = time.monotonic()
                if message == b"READY=1" and not ready:
                    ready = True
                    self._log("reported that it is ready")
                    on_ready(self)
            if ready and time.monotonic() - heard > interval:
                self._log(f"no report for {interval:g} s: WatchdogSec")
                self.process.send_signal(signal.SIGABRT)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                self.process.kill()
                self.process.wait()
            if time.monotonic() - begin > PATIENCE_SECONDS:
                self.process.kill()
                raise FaultError(f"the service has run for more than {PATIENCE_SECONDS} s; {end_of_log(self._place)}")
        return status, ready

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
    """Create in `place` the files that the unit expects in /opt/seer-edge, with the flags `train`."""
    shutil.copy(DEPLOY / "train-or-resume", place)
    shutil.copy(PROJECT / "docs/examples/camera_env.py", place)
    (place / "conf").write_text(f'TRAIN="{train}"\n')
    command = place / "venv/bin/seer-edge"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seer_edge "$@"\n')
    command.chmod(0o755)
    (place / "state/seer-edge").mkdir(parents=True)


def end_of_log(place: Path) -> str:
    """Say which line ends the log of the service. A message with the path of the log would outlive it."""
    lines = (place / "log").read_text(errors="replace").splitlines()
    return f"its last line is: {lines[-1]}" if lines else "it printed nothing"


def drill(place: Path, steps: int, hang: bool, log: Callable[[str], None]) -> Supervisor:
    """Run the service for `steps` steps; kill it after its first checkpoint and, with `hang`, stop it once more.

    Raises FaultError where it does not finish.
    """
    install(place, f"{TRAIN} --total-timesteps {steps}")
    supervisor = Supervisor(Unit.read(UNIT), place, "drill", log)

    def harm(service: Supervisor) -> None:
        assert service.process is not None
        if service.starts == 1:
            _wait_for_checkpoint(service)
            log(f"kill -9 {service.process.pid}")
            service.process.kill()
        elif service.starts == 2 and hang:
            log(f"kill -STOP {service.process.pid}: hang")
            service.process.send_signal(signal.SIGSTOP)

    try:
        status = supervisor.serve(harm, watchdog_seconds=HANG_SECONDS if hang else None)
    finally:
        supervisor.close()
    if status != 0:
        raise FaultError(f"the service ended with {status}; {end_of_log(place)}")
    return supervisor


def _wait_for_checkpoint(service: Supervisor) -> None:
    """Wait for a checkpoint after step 0."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(service.run.glob("checkpoints/step_*[1-9]*")):
        if time.monotonic() > deadline:
            raise FaultError(f"no checkpoint after {PATIENCE_SECONDS} s")
        time.sleep(0.05)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(description="Kill the service and check that it recovers.", formatter_class=argparse.HelpFormatter)
    parser.add_argument("--hang", action="store_true", help="make it hang once too, to test the watchdog")
    flags = parser.parse_args()
    begin = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True)

    def run() -> int:
        with tempfile.TemporaryDirectory() as place:
            supervisor = drill(Path(place), 1_500, flags.hang, log)
            print((Path(place) / "log").read_text().rpartition("evaluation")[0].splitlines()[-1])
            log(f"finished after {supervisor.starts} starts")
        return 0

    return run_tool("service_drill.py", run)


if __name__ == "__main__":
    sys.exit(main())
