"""End the process although an environment has left threads or child processes behind that never end."""

import logging
import os
import sys
import threading
import time
from typing import Any

from seer_runtime.system.process import start_thread

LOG = logging.getLogger("seer_edge")

GRACE_SECONDS = 2.0


def end_despite_leftovers(status: int) -> None:
    """End what Python would wait for at its exit.

    Child processes are terminated. If threads are left, the process ends with `status` soon after the main thread.
    """
    _end_children()
    main = threading.main_thread()
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
    if not left or threading.current_thread() is not main:
        return
    LOG.debug("threads are still running: %s", ", ".join(left))

    def end() -> None:
        main.join()
        time.sleep(GRACE_SECONDS)  # threads that do end, and handlers of `atexit`
        sys.stderr.flush()
        os._exit(status)

    start_thread(end)


def _end_children() -> None:
    """Terminate the processes of `multiprocessing` that do not end within `GRACE_SECONDS`."""
    multiprocessing: Any = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    children = multiprocessing.active_children()  # with daemons, which may ignore that Python terminates them
    kept = [child for child in children if not child.daemon]
    _wait(kept)
    kept = [child.name for child in kept if child.is_alive()]
    if kept:
        LOG.warning("the environment left processes running, which are terminated: %s", ", ".join(kept))
    for child in children:
        child.terminate()
    _wait(children)
    for child in children:
        if child.is_alive():
            child.kill()


def _wait(children: list[Any]) -> None:
    end = time.monotonic() + GRACE_SECONDS
    for child in children:
        child.join(max(end - time.monotonic(), 0))
