"""cgroupbench finds the smallest size that fits, measures real processes, and reports a system without cgroups."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import cgroupbench  # noqa: E402
from commandline import BadInputError, FaultError  # noqa: E402


@pytest.mark.parametrize("least", [101, 110, 115, 155, 200])
def test_bisection_finds_the_smallest_size_that_fits(least: int) -> None:
    tried: list[int] = []

    def fits(size_bytes: int) -> bool:
        tried.append(size_bytes)
        return size_bytes >= least

    assert cgroupbench.smallest(100, 200, 10, fits) == -(-least // 10) * 10
    assert len(tried) <= 6
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(("least", "flag"), [(201, "--high"), (100, "--low")])
def test_a_range_without_the_answer_names_the_flag_to_change(least: int, flag: str) -> None:
    with pytest.raises(FaultError, match=flag):
        cgroupbench.smallest(100, 200, 10, lambda size_bytes: size_bytes >= least)


def _hierarchy(root: Path, version: int) -> Path:
    folder = root / ("sys/fs/cgroup/memory" if version == 1 else "sys/fs/cgroup")
    folder.mkdir(parents=True)
    if version == 1:
        (folder / "memory.limit_in_bytes").write_text("9223372036854771712")
    else:
        (folder / "cgroup.controllers").write_text("cpu memory pids")
    return folder


@pytest.mark.parametrize(("version", "limit"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
def test_both_versions_of_cgroups_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, limit: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    folder = _hierarchy(tmp_path, version)
    found = cgroupbench.find_hierarchy(tmp_path)
    assert (found.folder, found.limit) == (folder, limit)


def test_missing_rights_and_missing_cgroups_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="this system has no memory cgroups"):
        cgroupbench.find_hierarchy(tmp_path)
    folder = _hierarchy(tmp_path, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BadInputError, match=f"{folder}: no cgroup can be made there; run this tool as root"):
        cgroupbench.find_hierarchy(tmp_path)


BUSY = """
import sys, time
end = time.process_time() + float(sys.argv[1])
while time.process_time() < end:
    pass
sys.exit("the last line")
"""


def _run(seconds: float, *, begun: bool) -> cgroupbench.Outcome:
    command = [sys.executable, "-c", BUSY, str(seconds)]
    return cgroupbench.run(command, dict(os.environ), lambda: begun, float("inf"))


def test_a_run_reports_its_status_its_error_and_its_seconds() -> None:
    outcome = _run(0.5, begun=False)
    assert (outcome.status, outcome.error) == (1, "the last line")
    assert 0.3 < outcome.user + outcome.system < 1
    assert outcome.disk < 0.5
    assert _run(0.5, begun=True).status == 1


SYSCALLS = "import os\nwhile True:\n    os.urandom(1 << 20)"


def test_a_run_with_too_much_overhead_is_stopped() -> None:
    outcome = cgroupbench.run([sys.executable, "-c", SYSCALLS], dict(os.environ), lambda: True, 0.2)
    assert outcome.status is None
    assert 0.2 < outcome.overhead < 5


IMPORTS = """
import os, pathlib, sys, time
while os.times().system < 0.4:
    os.urandom(1 << 20)
pathlib.Path(sys.argv[1]).touch()
end = time.process_time() + 0.2
while time.process_time() < end:
    pass
"""


def test_a_run_is_not_stopped_for_the_overhead_of_its_imports(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    command = [sys.executable, "-c", IMPORTS, str(begun)]
    outcome = cgroupbench.run(command, dict(os.environ), begun.exists, 0.2)
    assert outcome.status == 0
    assert outcome.overhead < 0.2


def test_an_arm_is_judged_by_the_overhead_of_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    limits: list[float] = []

    class Recorded(cgroupbench.Bench):
        """Answers with figures instead of a training run."""

        def train(self, arm: str, limit_bytes: int | None, most_overhead: float) -> cgroupbench.Outcome:
            limits.append(most_overhead)
            free = cgroupbench.Outcome(0, 8.0, 1.0, 0.0)
            return free if limit_bytes is None else cgroupbench.Outcome(0, 20.0, 1.5, 0.5)

    bench = Recorded(Path(), cgroupbench.Hierarchy(Path(), "", "", swap_counts_memory=False), ())
    assert cgroupbench.Arm(bench, "as it is", 1, []).fits(10**8)
    assert limits == [
        float("inf"),
        pytest.approx(2.0),
    ]  # 1 s as when free, and a tenth of the time at 90 % of the speed
    assert "as it is, 100.0 MB: fits, 90.0% of the free speed" in capsys.readouterr().err


def test_dropped_files_leave_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * 8_000_000)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        assert os.preadv(file.fileno(), [bytearray(4096)], 4_000_000, os.RWF_NOWAIT) == 4096
        # The kernel keeps pages that another CPU has just touched, so one call may not drop all of them.
        dropped = False
        for _ in range(50):
            cgroupbench.drop_from_cache(tmp_path)
            try:
                os.preadv(file.fileno(), [bytearray(4096)], 4_000_000, os.RWF_NOWAIT)
            except BlockingIOError:  # it would have to be read from the disk
                dropped = True
                break
            time.sleep(0.02)
        assert dropped


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--low", "lots"], ["--low", "'lots'"]),
        (["--low", "2MB", "--high", "1MB"], ["--high 1000000 B", "one step above --low 2000000 B"]),
        (["--free-runs", "0"], ["--free-runs", "'0'"]),
        (["--arm", "all"], ["--arm", "'all'", "as it is"]),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], words: list[str]) -> None:
    command = [sys.executable, str(TOOLS / "cgroupbench.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)
