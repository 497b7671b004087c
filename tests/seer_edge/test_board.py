"""Detection of boards from the kernel's files, and the recommendations of `doctor`."""

import bisect
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from seer_edge.cli.flags import make_parser, normalised
from seer_edge.config.build import build_config
from seer_edge.config.plan import make_plan
from seer_edge.envs import rendering
from seer_edge.machine import doctor
from seer_edge.machine.board import Board, profile_of, profiles, this_board
from seer_edge.machine.doctor import MOST_BYTES, TYPICAL, advise
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.units import parse_size

PI_4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

processor\t: 1
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
PC = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz
flags\t\t: fpu sse sse2 fma avx f16c avx2

"""


def _tree(root: Path, **files: str) -> Path:
    names = {"cpuinfo": "proc/cpuinfo", "model": "proc/device-tree/model", "base": "sys/firmware/devicetree/base/model"}
    names |= {"vendor": "sys/class/dmi/id/sys_vendor", "product": "sys/class/dmi/id/product_name"}
    names |= {"controllers": "sys/fs/cgroup/cgroup.controllers"}
    for name, text in files.items():
        path = root / names[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("place", ["model", "base"])
def test_a_pi_is_identified_by_its_device_tree(tmp_path: Path, place: str) -> None:
    board = this_board(_tree(tmp_path, cpuinfo=PI_4, **{place: "Raspberry Pi 4 Model B Rev 1.4\0"}))
    assert (board.name, board.cpu) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72")
    assert board.features == ("asimd",)
    profile = profile_of(board)
    assert profile is not None
    assert (profile.name, profile.cpu, profile.torch) == ("Raspberry Pi 4", "Cortex-A72", "2.9.1")


def test_a_pc_is_identified_by_its_firmware(tmp_path: Path) -> None:
    board = this_board(_tree(tmp_path, cpuinfo=PC, vendor="LENOVO\n", product="20L5\n"))
    assert (board.name, board.cpu) == ("LENOVO 20L5", "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz")
    assert board.features == ("fma", "avx", "avx2")
    assert profile_of(board) is None


def test_missing_kernel_files_give_unknown(tmp_path: Path) -> None:
    board = this_board(tmp_path)
    assert (board.name, board.cpu, board.features) == ("unknown", "unknown", ())
    assert board.cores >= 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", "Raspberry Pi Zero 2 W"),
        ("Raspberry Pi 4 Model B Rev 1.4", "Raspberry Pi 4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi 5"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "Jetson Orin Nano"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "Jetson Orin Nano"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", None),
    ],
)
def test_profile_of_matches_the_device_tree_model(model: str, name: str | None) -> None:
    found = profile_of(Board(model, "aarch64", "Cortex-A76", 4, ()))
    assert (found.name if found else None) == name


def test_profiles_are_valid_and_shipped_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "runtime/deploy": "seer_edge/machine/deploy"
    }
    assert len(profiles()) == 4
    for profile in profiles():
        assert 1_000_000 <= parse_size(profile.mem_budget) <= 70_000_000
        assert 1 <= profile.threads <= profile.cores


def _board(name: str = "unknown", machine: str = "x86_64", cores: int = 4, features: tuple[str, ...] = ()) -> Board:
    return Board(name, machine, "unknown", cores, features)


def _limits(available: int, cgroup: int | None = None, address_space: int | None = None) -> MemoryLimits:
    return MemoryLimits(max(available, 10**9), available, cgroup, address_space)


def _command(room_mb: int) -> str:
    return advise(_board(), None, _limits(room_mb * 10**6)).command


def _peak(budget: int, source: str | None = None) -> int:
    return make_plan(build_config(TYPICAL, mem_budget_bytes=budget, source=source), TYPICAL).rss_peak_bytes


@pytest.mark.parametrize(
    "limits",
    [_limits(600_000_000), _limits(8 * 10**9, 600_000_000), _limits(8 * 10**9, None, 600_000_000)],
    ids=["machine", "cgroup", "ulimit"],
)
def test_the_smallest_limit_decides_the_largest_budget(limits: MemoryLimits) -> None:
    advice = advise(_board(), None, limits)
    assert advice.most_budget_bytes is not None
    assert _peak(advice.most_budget_bytes) <= 0.95 * 600_000_000 < _peak(advice.most_budget_bytes + 10_000_000)
    assert advice.mem_budget_bytes == 70_000_000
    assert advice.command == "seer-edge train --env Alien --mem-budget 70MB --threads 2"


def test_the_recommended_budget_shrinks_with_memory() -> None:
    advices = {mb: advise(_board(), None, _limits(mb * 1_000_000)) for mb in (100, 380, 420, 10_000, 40_000)}
    assert advices[100].mem_budget_bytes is None
    assert advices[100].command == "seer-edge act policy.seer"
    assert advices[100].why == "100.0 MB of memory is too little to learn"
    budgets = [advice.mem_budget_bytes or 0 for advice in advices.values()]
    assert budgets == sorted(budgets)
    assert advices[10_000].mem_budget_bytes == 70_000_000
    assert advices[40_000].most_budget_bytes == MOST_BYTES
    # Training only a head needs less memory than training the convolutions too.
    rooms = range(150, 600)
    least = bisect.bisect_left(rooms, True, key=lambda mb: "--from" not in _command(mb) and "train" in _command(mb))
    command = _command(rooms[least - 1])
    assert command.startswith("seer-edge train --env Alien --from policy.seer --mem-budget ")


@pytest.mark.parametrize("room_mb", [100, 300, 600, 40_000])
def test_the_recommended_command_can_be_pasted_into_a_shell(room_mb: int) -> None:
    command = _command(room_mb)
    assert command.isascii()
    assert not set(command) & set("()<>|&;*?$\"'`")  # no shell metacharacters
    program, *words = shlex.split(command)
    assert program == "seer-edge"
    assert make_parser().parse_args(normalised(words)).command in ("act", "train")


def test_advice_follows_the_profile_and_the_core_count() -> None:
    pi = _board("Raspberry Pi Zero 2 W Rev 1.0", cores=1)
    advice = advise(pi, profile_of(pi), _limits(10**9))
    assert (advice.mem_budget_bytes, advice.threads) == (10_000_000, 1)
    assert [advise(_board(cores=cores), None, _limits(10**9)).threads for cores in (1, 2, 3, 8)] == [1, 1, 2, 2]


def _needs(board: Board, root: Path, providers: tuple[str, ...] = ("CPU",), **versions: str | None) -> dict[str, str]:
    parts = {extra: {name: versions.get(name, "1.0") for name in names} for extra, names in doctor.PARTS.items()}
    return {need.what: need.fix for need in doctor._needs(board, parts, providers, root)}


def test_each_missing_package_is_listed_with_the_command_that_installs_it(tmp_path: Path) -> None:
    board = _board()
    assert _needs(board, tmp_path) == {}
    assert _needs(board, tmp_path, cv2=None) == {"opencv-python-headless, for all commands": "pip install seer-edge"}
    assert _needs(board, tmp_path, ale_py=None) == {"ale-py, for Atari games": "pip install 'seer-edge[atari]'"}
    nothing = {"torch": None, "onnx": None, "tqdm": None}
    assert _needs(board, tmp_path, **nothing) == {"torch, onnx, tqdm, for learning": "pip install 'seer-edge[train]'"}


def test_every_package_of_the_train_extra_is_examined() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = {re.split("[>;]", line)[0] for line in project["optional-dependencies"]["train"]}
    assert {packages[0] for packages in doctor.PARTS["train"].values()} == wanted


def test_missing_dm_control_has_the_same_hint_as_in_a_run(tmp_path: Path) -> None:
    hint = rendering.INSTALL_HINT
    assert _needs(_board(), tmp_path, dm_control=None) == {"dm_control, for control tasks": hint}
    assert _needs(_board(), tmp_path, mujoco=None) == {"mujoco, for control tasks": hint}


def test_an_installed_torch_is_not_replaced(tmp_path: Path) -> None:
    needs = _needs(_board(), tmp_path, torch="2.5.0a0+nv24.8", onnx=None, tqdm=None)
    assert needs == {"onnx, tqdm, for learning": "pip install onnx tqdm"}


@pytest.mark.parametrize(
    ("torch", "features", "crashes"),
    [
        ("2.9.1", ("asimd",), False),
        ("2.10.0", ("asimd",), True),
        ("2.10.0", ("asimd", "atomics"), False),
        ("3.0", (), True),
    ],
)
def test_a_torch_that_crashes_on_the_board_is_reported(
    torch: str, features: tuple[str, ...], crashes: bool, tmp_path: Path
) -> None:
    needs = _needs(_board(machine="aarch64", features=features), tmp_path, torch=torch)
    assert list(needs.values()) == (["pip install 'torch<2.10'"] if crashes else [])
    assert _needs(_board(features=features), tmp_path, torch=torch) == {}


def test_a_missing_cgroup_memory_controller_is_reported(tmp_path: Path) -> None:
    _tree(tmp_path, controllers="cpuset cpu io pids\n")
    ((what, fix),) = _needs(_board(), tmp_path).items()
    assert "MemoryMax" in what
    assert "cgroup_enable=memory" in fix
    _tree(tmp_path, controllers="cpuset cpu io memory pids\n")
    assert _needs(_board(), tmp_path) == {}


def test_a_jetson_without_cuda_in_onnx_runtime_is_reported(tmp_path: Path) -> None:
    jetson = _board("NVIDIA Jetson Orin Nano Developer Kit")
    assert list(_needs(jetson, tmp_path)) == ["ONNX Runtime with CUDA, for --device cuda"]
    assert _needs(jetson, tmp_path, ("TensorRT", "CUDA", "CPU")) == {}


def test_doctor_prints_the_same_report_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.doctor(as_json=True) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["board"]["cores"] >= 1
    assert report["memory"]["total_bytes"] > 0
    assert report["parts"]["base"]["numpy"]
    assert "CPU" in report["providers"]
    assert (Path(report["service"]) / "seer-edge@.service").is_file()
    assert doctor.doctor(as_json=False) == 0
    text = capsys.readouterr().out
    assert report["advice"]["command"] in text
    assert all(need["fix"] in text for need in report["needs"])
