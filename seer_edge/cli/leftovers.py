"""End the process although an environment has left threads behind that never end."""

import logging
import os
import sys
import threading
import time

from seer_runtime.system.process import start_thread

LOG = logging.getLogger("seer_edge")

GRACE_SECONDS = 2.0


def end_despite_leftovers(status: int) -> None:
    """If threads are left that Python would wait for, end the process with `status` soon after the main thread."""
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
