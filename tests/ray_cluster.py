"""A Ray cluster of this machine alone, with two CPUs."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

START = "from ray.scripts.scripts import main; main()"


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Start a cluster, yield its address, and end all of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    head = subprocess.Popen(
        [sys.executable, "-c", START, *words, "--include-dashboard=false", "--disable-usage-stats"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("the cluster did not start")
        yield address
    finally:
        head.terminate()
        head.wait(60)
        assert head.stdout is not None
        head.stdout.close()
