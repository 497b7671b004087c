"""workerbench: a job that runs out of memory on the worker thread never hangs the thread that waits for it."""

import subprocess
import sys
from pathlib import Path

WORKERBENCH = Path(__file__).parents[2] / "tools" / "workerbench.py"
ONE = """
import workerbench
ends = [
    workerbench.trial(workerbench.worker_thread, spare, seed) for spare in workerbench.SPARE_BYTES for seed in (1, 2)
]
print(*ends)
"""


def test_a_job_that_runs_out_of_memory_raises_on_the_worker_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE], cwd=WORKERBENCH.parent, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["raised"] * 8, done.stderr


def test_the_table_has_a_line_for_each_kind() -> None:
    done = subprocess.run(
        [sys.executable, str(WORKERBENCH), "--jobs", "20", "--trials", "1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert "error raised" in header
    assert [line.split()[0] for line in lines] == ["WorkerThread", "ThreadPoolExecutor"]


def test_bad_input_is_reported_in_one_line() -> None:
    done = subprocess.run([sys.executable, str(WORKERBENCH), "--trials", "0"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("workerbench.py: --trials: '0' is not a whole number")
