"""Tests of memory limits, read from file trees like those of real kernels and containers."""

import resource
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer_runtime.system.memory import MemoryLimits, cgroup_limit_bytes, memory_limits

V2 = "30 23 0:26 {root} {point} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {root} {point} rw,relatime - cgroup cgroup rw,memory"
CPU = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
# The kernel's "no limit" values with pages of 4 and 64 KiB, and the text of cgroup v2.
NO_LIMITS = ("9223372036854771712", "9223372036854710272", "18446744073709551615", "max")
AT_V2, AT_V1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"


def _v2(root: str = "/", point: str = AT_V2) -> str:
    return V2.format(root=root, point=point)


def _v1(root: str = "/", point: str = AT_V1) -> str:
    return V1.format(root=root, point=point)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def _limit(root: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> int | None:
    _write(root, {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "\n".join(mounts), **files})
    return cgroup_limit_bytes(root)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"user/run/memory.max": "1000"}, 1_000),
        ({"user/run/memory.max": "1000", "user/memory.max": "900", "memory.max": "950"}, 900),
        ({"user/run/memory.max": "1000", "memory.max": "950"}, 950),
        ({"user/run/memory.max": "1000", "user/memory.high": "800"}, 800),
        ({"user/run/memory.max": "max", "user/memory.max": "700"}, 700),
        ({"user/run/memory.max": "max", "user/run/memory.high": "max"}, None),
        ({"user/other/memory.max": "1", "other/memory.max": "1", "user/run/below/memory.max": "1"}, None),
        ({"user/run/memory.limit_in_bytes": "1"}, None),  # a file of cgroup v1
        ({}, None),
    ],
)
def test_cgroup_v2_limit_is_the_lowest_of_the_cgroup_and_its_ancestors(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    files = {f"{AT_V2}/{name}": text for name, text in files.items()}
    assert _limit(tmp_path, "0::/user/run", [_v2()], files) == limit


@pytest.mark.parametrize("no_limit", NO_LIMITS)
def test_cgroup_v1_limit_is_read_beside_other_controllers(tmp_path: Path, no_limit: str) -> None:
    cgroup = "9:name=systemd:/\n4:cpu,cpuacct:/fast\n3:hugetlb,memory:/jobs/7\n1:pids:/"
    files = {
        f"{AT_V1}/memory.limit_in_bytes": no_limit,
        f"{AT_V1}/jobs/memory.limit_in_bytes": "5000",
        f"{AT_V1}/jobs/7/memory.limit_in_bytes": no_limit,
        f"{AT_V1}/fast/memory.limit_in_bytes": "1",
        "/sys/fs/cgroup/cpu/jobs/7/memory.limit_in_bytes": "2",
    }
    assert _limit(tmp_path, cgroup, [CPU, _v1()], files) == 5_000
    files[f"{AT_V1}/jobs/memory.limit_in_bytes"] = no_limit
    assert _limit(tmp_path, cgroup, [CPU, _v1()], files) is None


def test_hybrid_hierarchy_reads_the_memory_limit_from_v1(tmp_path: Path) -> None:
    cgroup = "4:memory:/jobs\n0::/jobs"
    files = {f"{AT_V1}/jobs/memory.limit_in_bytes": "6000", "/sys/fs/cgroup/unified/jobs/cgroup.procs": "1"}
    assert _limit(tmp_path, cgroup, [_v1(), UNIFIED], files) == 6_000


@pytest.mark.parametrize(
    ("cgroup", "mounts", "limit_at"),
    [
        ("0::/", [_v2()], f"{AT_V2}/memory.max"),  # in a private cgroup namespace
        ("0::/docker/abc", [_v2("/docker/abc")], f"{AT_V2}/memory.max"),  # host namespace, own cgroup mounted
        ("0::/docker/abc/in", [_v2("/docker/abc")], f"{AT_V2}/in/memory.max"),
        ("0::/docker/abc", [_v2("/docker/other"), _v2("/docker/abc", "/mine")], "/mine/memory.max"),
        ("0::/../../elsewhere", [_v2()], f"{AT_V2}/memory.max"),  # the process was moved out of its namespace
        ("0::/hosts/name/of/it", [_v2("/docker/abc")], f"{AT_V2}/memory.max"),
        ("0::/gone/away", [_v2()], f"{AT_V2}/memory.max"),  # the mount shows the own cgroup under another name
        ("4:memory:/docker/abc", [_v1("/docker/abc")], f"{AT_V1}/memory.limit_in_bytes"),
        ("4:memory:/docker/abc", [_v1("/")], f"{AT_V1}/memory.limit_in_bytes"),
        ("0::/a", [_v2("/", r"/odd\040place\134x")], "/odd place\\x/a/memory.max"),
    ],
)
def test_container_limit_is_read_from_the_mounted_cgroup(
    tmp_path: Path, cgroup: str, mounts: list[str], limit_at: str
) -> None:
    files = {limit_at: "7000", f"{AT_V2}/../elsewhere/memory.max": "1", "/sys/elsewhere/memory.max": "1"}
    assert _limit(tmp_path, cgroup, mounts, files) == 7_000


@pytest.mark.parametrize("missing", ["proc/self/cgroup", "proc/self/mountinfo", "proc"])
def test_missing_proc_files_mean_no_limit(tmp_path: Path, missing: str) -> None:
    if missing != "proc":
        _write(tmp_path, {missing: "0::/"})
    assert cgroup_limit_bytes(tmp_path) is None


NAMES = st.sampled_from(["a", "b", "c"])
LIMITS = st.one_of(st.integers(1, 10**12).map(str), st.sampled_from(NO_LIMITS))


@given(
    path=st.lists(NAMES, max_size=4),
    trees=st.dictionaries(st.lists(NAMES, max_size=4).map(tuple), LIMITS, max_size=12),
    version=st.sampled_from([1, 2]),
)
def test_lowest_limit_among_the_ancestors_is_used(
    tmp_path_factory: pytest.TempPathFactory, path: list[str], trees: dict[tuple[str, ...], str], version: int
) -> None:
    root = tmp_path_factory.mktemp("tree")
    point, name = (AT_V2, "memory.max") if version == 2 else (AT_V1, "memory.limit_in_bytes")
    files = {str(PurePosixPath(point, *folder, name)): text for folder, text in trees.items()}
    own = "/" + "/".join(path)
    limit = _limit(root, f"0::{own}" if version == 2 else f"4:memory:{own}", [_v2() if version == 2 else _v1()], files)
    above = [text for folder, text in trees.items() if list(folder) == path[: len(folder)]]
    assert limit == min((int(text) for text in above if text not in NO_LIMITS), default=None)


LINES = st.sampled_from(["0::/a", "0::", "4:memory:/a", ":::", "x:memory", _v2(), _v1("/a"), " - ", _v2(point="rel")])
TEXTS = st.one_of(st.binary(max_size=60), st.lists(LINES, max_size=4).map(lambda lines: "\n".join(lines).encode()))
NUMBERS = st.one_of(st.binary(max_size=24), st.sampled_from([b"-1", b"1e9", b"9" * 40, "١".encode(), b"5 5", b"\0"]))


@given(cgroup=TEXTS, mountinfo=TEXTS, limit=NUMBERS)
def test_malformed_files_neither_raise_nor_limit(
    tmp_path_factory: pytest.TempPathFactory, cgroup: bytes, mountinfo: bytes, limit: bytes
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name, data in (("cgroup", cgroup), ("mountinfo", mountinfo)):
        (root / "proc/self").mkdir(parents=True, exist_ok=True)
        (root / "proc/self" / name).write_bytes(data)
    for place, name in ((AT_V2, "memory.max"), (AT_V1, "memory.limit_in_bytes")):
        path = root / place.lstrip("/") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(limit)
    found = cgroup_limit_bytes(root)
    assert found is None or (limit.strip().isdigit() and found == int(limit))


@pytest.mark.parametrize("text", ["-1", "1e9", "9" * 40, "١", "5 5", "0", "", "12B", "\x1c1", "\x851"])
def test_a_malformed_limit_is_ignored(tmp_path: Path, text: str) -> None:
    assert _limit(tmp_path, "0::/", [_v2()], {f"{AT_V2}/memory.max": text}) is None


# --- this machine --------------------------------------------------------------------------------------------


def test_total_memory_equals_the_figure_of_getconf() -> None:
    limits = memory_limits()
    pages = subprocess.run(["getconf", "_PHYS_PAGES"], capture_output=True, text=True, check=True).stdout
    assert limits.total_bytes == pytest.approx(int(pages) * resource.getpagesize(), rel=0.02)
    assert 0 < limits.available_bytes <= limits.total_bytes


def test_address_space_limit_is_read() -> None:
    code = (
        "import resource; from seer_runtime.system.memory import memory_limits;"
        "print(memory_limits().address_space_bytes);"
        "resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, resource.RLIM_INFINITY));"
        "print(memory_limits().address_space_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "3000000000"]


def test_text_lists_only_the_limits_that_are_set() -> None:
    assert str(MemoryLimits(4_000_000_000, 3_100_000_000)) == "4.0 GB, of which 3.1 GB are available"
    limited = MemoryLimits(4_000_000_000, 3_100_000_000, 512_000_000, 2_000_000_000)
    assert str(limited) == "4.0 GB, of which 3.1 GB are available; cgroup limit 512.0 MB; ulimit -v 2.0 GB"
