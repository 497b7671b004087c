"""Trackers: they receive the figures of each log interval, in this process or in another one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from seer_edge.config.config import TrainConfig
from seer_edge.runs.run_folder import RunFolder
from seer_edge.training.metrics import Console
from seer_runtime.system.user_modules import module_places

REMOTE = ("wandb", "mlflow")
"""Trackers with a separate process, by the entry of the configuration that names their project or server."""
CLOSE_SECONDS = 120.0
"""Time that a tracker has at the end of a run. A short run may wait for its packages, which load slowly on boards."""
PENDING_BYTES_MAX = 2**24
"""Bytes of rows that may wait for a slow tracker."""


class Tracker(Protocol):
    """Receives the figures of each log interval."""

    def write(self, row: Mapping[str, float]) -> None:
        """Take the figures of one interval, by column."""

    def sync(self) -> None:
        """Force what was written to the disk, before a checkpoint refers to it."""

    def close(self) -> None:
        """Close; no figures follow."""


class TensorBoard:
    """Writes the figures as TensorBoard events to `tb/`. Raises ImportError if tensorboardX is not installed."""

    def __init__(self, folder: Path, until: int) -> None:
        from tensorboardX import SummaryWriter

        # A resumed run writes the events after that step again.
        self._writer = SummaryWriter(str(folder), write_to_disk=True, purge_step=until + 1)

    def write(self, row: Mapping[str, float]) -> None:
        """Write one point per figure, at the row's step."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, int(row["time/total_timesteps"]))
        self._writer.flush()

    def sync(self) -> None:
        """Do nothing: checkpoints refer to `progress.csv` only."""

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class ProgressCallback:
    """Passes each row to a function of the caller."""

    def __init__(self, call: Callable[[Mapping[str, float]], object]) -> None:
        self._call = call

    def write(self, row: Mapping[str, float]) -> None:
        """Call the function with one row. Raises what it raises, but RuntimeError instead of an OSError."""
        try:
            self._call(dict(row))
        except OSError as error:  # an OSError would look as if the run's folder could not be written
            raise RuntimeError(f"on_progress failed: {error}") from error

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class RemoteTracker:
    """Passes each row to Weights & Biases or MLflow, in a separate process; see `tracker_process`.

    Their packages draw from global random generators, handle signals, print, and wait for servers. In a separate
    process this does not reach the run. The first problem is reported by a warning. The run never waits for a tracker,
    except `CLOSE_SECONDS` at its end.
    """

    def __init__(self, label: str, begin: Mapping[str, Any], status: Callable[[], str], console: Console) -> None:
        """Start the process and send `begin` to it. `label` is the flag and its value.

        `status` returns the status of the run when it ends.
        """
        self._label, self._status, self._console = label, status, console
        self._pending = bytearray()
        self._warned = False
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _start()
        except OSError as error:
            self._warn(str(error))
        self._send(begin)

    def write(self, row: Mapping[str, float]) -> None:
        """Pass one row on, without waiting."""
        self._send({"row": dict(row)})

    def sync(self) -> None:
        """Do nothing: checkpoints refer to `progress.csv` only."""

    def close(self) -> None:
        """Pass the status of the run on, and wait until the tracker has everything."""
        self._send({"end": self._status()})
        process = self._process
        if process is None:
            return
        try:
            problems, _ = process.communicate(bytes(self._pending), timeout=CLOSE_SECONDS)
            self._report(problems)
            if process.returncode:
                self._warn("did not take everything in time")
        except subprocess.TimeoutExpired:
            self._warn(f"did not take everything within {CLOSE_SECONDS:.0f} s")
        self._end()

    def _send(self, message: Mapping[str, Any]) -> None:
        """Append a message to those that wait, and write as many as the pipe takes."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        self._pending += json.dumps(message).encode() + b"\n"
        try:
            with contextlib.suppress(BlockingIOError):
                while self._pending:
                    del self._pending[: os.write(process.stdin.fileno(), self._pending)]
            with contextlib.suppress(BlockingIOError):
                self._report(os.read(process.stdout.fileno(), 2**16))
        except BrokenPipeError:
            self._warn("its process ended")
            self._end()
        if len(self._pending) > PENDING_BYTES_MAX:
            self._warn("does not keep up")
            self._end()

    def _report(self, problems: bytes) -> None:
        for problem in problems.decode(errors="replace").splitlines():
            self._warn(problem)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._console.warn(f"{self._label}: {reason}; the run continues, and `resume` sends what is missing")

    def _end(self) -> None:
        """End the process, and those that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _start() -> "subprocess.Popen[bytes]":
    """Start the process of a tracker. Raises OSError."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "seer_edge.training.tracker_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, **module_places()},
        start_new_session=True,  # Ctrl-C ends the run, and the run ends its trackers
    )
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        os.set_blocking(stream.fileno(), False)
    return process


def open_trackers(
    folder: RunFolder,
    config: TrainConfig,
    until: int,
    describe: Callable[[], Mapping[str, Any]],
    status: Callable[[], str],
    console: Console,
) -> Iterator[Tracker]:
    """Open the trackers of a run whose last row of `progress.csv` is of step `until`.

    `describe` returns the content of `summary.json`, and `status` its status. Any thread may call `status`.
    """
    if config.status_port is not None:
        yield from _status_page(config, describe, status, console)
    if config.tensorboard:
        yield TensorBoard(folder.events(config), until)
    for name in REMOTE:
        target = getattr(config, name)
        if target is not None:
            begin = {
                "tracker": name,
                "target": target,
                "folder": str(folder.path.absolute()),
                "progress": str(folder.progress.absolute()),
                "state": str((folder.trackers / f"{name}.json").absolute()),
                "until": until,
                "parameters": parameters(config.to_json()),
            }
            yield RemoteTracker(f"--{name} {target}", begin, status, console)


def _status_page(
    config: TrainConfig, describe: Callable[[], Mapping[str, Any]], status: Callable[[], str], console: Console
) -> Iterator[Tracker]:
    from seer_edge.training.status_page import StatusPage  # only a run that shows its status needs a server

    assert config.status_port is not None
    try:
        page = StatusPage(config.status_port, config.total_timesteps, describe, status)
    except OSError as error:
        console.warn(f"--status-port {config.status_port}: cannot be used ({error.strerror}); the run continues")
        return
    host, port = page.address
    console.say(f"status at http://{f'[{host}]' if ':' in host else host}:{port}/")
    yield page


def parameters(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the entries of a configuration without nesting: `settings.batch_size`."""
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= parameters(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
