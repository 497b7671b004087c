"""`train`, `export` and `act` contact no host, and write only to the paths that they are given."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.end_to_end.short_presets import GAME

PROJECT = Path(__file__).parents[2]
TRAIN = ("--mem-budget", "300kB", "--total-timesteps", "60", "--freeze-at", "40", "--eval-episodes", "1")
SMALL = ("--set", "hidden=16", "--set", "batch_size=8", "--set", "learning_starts=20", "--set", "n_step=1")
CALLS = "trace=%network,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,link,linkat"
OPENED = re.compile(r'(open\w*|creat)\((?:AT_FDCWD, |\d+, )?"([^"]*)", (\S+)')
NAMED = re.compile(r"(?:mkdir|rename|symlink|link)\w*\((.*)")
LOCAL = ("AF_UNIX", "AF_NETLINK")
NO_FILES = ("/dev/null", "/proc/self", "/dev/shm/sem.")  # the last: semaphores of multiprocessing, in memory


def _written(log: str) -> Iterator[str]:
    """The paths that the calls in `log` create, write or rename, where they succeed."""
    for line in log.splitlines():
        if " = -1 " in line:
            continue
        opened, named = OPENED.search(line), NAMED.search(line)
        if opened is not None and re.search("O_WRONLY|O_RDWR|O_CREAT", opened[3]):
            yield opened[2]
        elif named is not None:
            yield from re.findall(r'"([^"]*)"', named[1])


def test_commands_contact_no_host_and_leave_nothing_at_home(tmp_path: Path) -> None:
    """The listing of the home needs no tool. Where strace is installed, every system call is checked too."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    variables = {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    traced = shutil.which("strace") is not None
    commands = (
        ("train", "--env", GAME, *TRAIN, *SMALL, "--run-dir", work / "run"),
        ("export", work / "run", "-o", work / "policy.seer"),
        ("act", work / "policy.seer", "--episodes", "3"),
    )
    for command in commands:
        log = tmp_path / "calls"
        watch = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "1024", "-e", CALLS, "-o", str(log)] if traced else []
        words = [*watch, sys.executable, "-m", "seer_edge", *map(str, command)]
        done = subprocess.run(words, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert list(home.iterdir()) == []
        if traced:
            calls = log.read_text()
            assert calls.count("openat(") > 100
            reached = [line for line in calls.splitlines() if re.search("connect\\(|sendto\\(|sendmsg\\(", line)]
            assert [line for line in reached if not any(kind in line for kind in LOCAL)] == []
            outside = [path for path in _written(calls) if not path.startswith((str(work), *NO_FILES))]
            assert outside == []
