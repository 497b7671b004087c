"""Runs the jobs of a sweep as actors of a Ray cluster. Ray is imported only here.

Every node needs the same Python environment and, at the same path, the folder of the sweep.
"""

import os
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from seer_edge.errors import BadInputError
from seer_edge.sweeps.engine import Task, start_command
from seer_runtime.system.user_modules import module_places

CONNECT_SECONDS = 5.0
LOST = 1
"""Status of a command whose node or actor was lost."""


class RayTask:
    """A command that was submitted. It waits in the cluster until a node has the cores and the memory."""

    def __init__(self, ray: Any, actor: Any, task: Task) -> None:
        self.task = task
        self._ray, self._actor = ray, actor
        # The actor may have another current folder.
        self._status = actor.run.remote(list(task.words), os.fspath(Path.cwd() / task.log), os.fspath(Path.cwd()))
        self._stop_was_sent = False

    def status(self) -> int | None:
        """Return the exit status, `LOST` if its node is gone, or None while it waits or runs."""
        done, _ = self._ray.wait([self._status], timeout=0)
        if not done:
            return None
        try:
            status = int(self._ray.get(self._status))
        except self._ray.exceptions.RayError as error:
            status = LOST
            with self.task.log.open("a", encoding="utf-8") as file:
                file.write(f"{error}\n")
        self._ray.kill(self._actor)
        return status

    def stop(self) -> None:
        """Send SIGTERM to the command, or as soon as it begins if it waits for a node."""
        if not self._stop_was_sent:
            self._actor.stop.remote()
            self._stop_was_sent = True


class RayEngine:
    """Submits each command with its threads as CPUs and its planned RSS as memory. Ray chooses the nodes."""

    def __init__(self, address: str, jobs: int | None) -> None:
        """Connect to the cluster at `address`, HOST:PORT or "auto". Raises BadInputError."""
        self._ray = _import_ray()
        self._jobs = jobs
        _connect(self._ray, address)
        self._actor = self._ray.remote(_Command)

    def slots(self, threads: int, rss_bytes: int) -> int:
        """Return how many tasks of so many threads and bytes the cluster runs at a time."""
        found = self._ray.cluster_resources()
        count = min(int(found.get("CPU", 1)) // threads, int(found.get("memory", rss_bytes)) // max(1, rss_bytes))
        return max(1, count if self._jobs is None else min(count, self._jobs))

    def has_room(self, task: Task, running: Collection[Task]) -> bool:
        """Return whether `task` may be submitted. Raises BadInputError if no node could ever run it."""
        if not any(_fits(node["Resources"], task) for node in self._ray.nodes() if node["Alive"]):
            raise BadInputError(
                f"--engine ray: no node has {task.threads} CPUs and {task.rss_bytes} B of memory for a run; add a node"
            )
        return self._jobs is None or len(running) < self._jobs

    def start(self, task: Task) -> RayTask:
        """Submit a command."""
        options = {"num_cpus": task.threads, "memory": task.rss_bytes, "max_concurrency": 2}
        return RayTask(self._ray, self._actor.options(**options).remote(module_places()), task)

    def scratch(self, folder: Path) -> Path:
        """Return the sweep's folder, or the nearest one above it that exists: the nodes share it."""
        place = folder.absolute()
        return next(found for found in (place, *place.parents) if found.is_dir())

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


class _Command:
    """An actor on a node. `stop` runs in a second thread beside `run`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self, words: list[str], log: str, folder: str) -> int:
        """Run `seer-edge` with `words` in `folder`, its output behind `log`. Return its exit status."""
        self._child = start_command(words, Path(log), self._environment, folder)
        if self._is_stopped:
            self._child.terminate()
        return self._child.wait()

    def stop(self) -> None:
        """Send SIGTERM to the child, now or when it begins."""
        self._is_stopped = True
        if self._child is not None:
            self._child.terminate()


def _fits(resources: dict[str, float], task: Task) -> bool:
    return resources.get("CPU", 0) >= task.threads and resources.get("memory", 0) >= task.rss_bytes


def _import_ray() -> Any:
    # Without this, Ray sends usage statistics to a server.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BadInputError("--engine ray: the package ray is missing; pip install 'seer-edge[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    head = address
    try:
        if address == "auto":
            # Ray itself would retry a dead cluster for minutes.
            head = ray._private.services.canonicalize_bootstrap_address_or_die(address)
        host, _, port = head.rpartition(":")
        if not host or not port.isdecimal():
            raise BadInputError(f"--ray-address {head}: not HOST:PORT; give that of the cluster's head, or auto")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address=head, log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(
            f"--ray-address {head}: no cluster answers ({reason}); start one with `ray start --head`, or use "
            "--engine local"
        ) from error
