"""Detect the computer's name, processor and instruction sets, and look up its board profile. Imports no torch."""

import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_MODELS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
_VENDOR, _PRODUCT = "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name"
_CPU_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
}
"""Names of Arm's cores by the "CPU part" that /proc/cpuinfo prints for them."""
FEATURES = {
    "asimd": "NEON",
    "asimdhp": "float16",
    "asimddp": "dot products",
    "i8mm": "int8 products",
    "bf16": "bfloat16",
    "sve": "SVE",
    "atomics": "LSE atomics",
    "fma": "FMA",
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "int8 products",
    "avx512_bf16": "bfloat16",
    "amx_bf16": "AMX bfloat16",
}
"""Processor features that affect the speed of arithmetic or which builds run: names by the kernel's flags."""


@dataclass(frozen=True)
class Board:
    """The computer that this process runs on."""

    name: str  # from the device tree or the firmware
    machine: str  # the architecture, such as aarch64 or x86_64
    cpu: str
    cores: int  # CPU cores that this process may use
    features: tuple[str, ...]  # keys of FEATURES


@dataclass(frozen=True)
class Profile:
    """Recommended settings for one known board; an entry of `runtime/deploy/boards.json`."""

    name: str
    model: str  # a substring of the model in its device tree
    ram: str
    cores: int
    cpu: str
    mem_budget: str  # for --mem-budget, such as "70MB"
    threads: int  # for --threads
    torch: str  # the torch version to install
    use: str  # the tasks that the board is fit for


def this_board(root: Path = Path("/")) -> Board:
    """Read the computer's description from the kernel's files below `root`; a missing value becomes "unknown"."""
    cpuinfo = dict(re.findall(r"^([^:\n]+?)\s*:\s*(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE))
    cpu = cpuinfo.get("model name") or _CPU_PARTS.get(cpuinfo.get("CPU part", ""), "unknown")
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return Board(
        name=_name(root),
        machine=platform.machine(),
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        features=tuple(name for name in FEATURES if name in flags),
    )


def _name(root: Path) -> str:
    for model in _MODELS:
        if text := _text(root / model).strip("\0\n "):
            return text
    return " ".join(_text(root / part).strip() for part in (_VENDOR, _PRODUCT)).strip() or "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def deploy_folder() -> Path:
    """Return the folder of the systemd unit, its script and the board profiles.

    An installed wheel has it inside this package. A source checkout has it at `runtime/deploy`.
    """
    here = Path(__file__).parent
    return here / "deploy" if (here / "deploy").is_dir() else here.parents[1] / "runtime/deploy"


def profiles() -> tuple[Profile, ...]:
    """Load the profiles of all known boards from `boards.json`."""
    entries = json.loads((deploy_folder() / "boards.json").read_text())
    return tuple(Profile(**entry) for entry in entries)


def profile_of(board: Board) -> Profile | None:
    """Return the first profile whose model is part of the board's name, or None."""
    return next((profile for profile in profiles() if profile.model in board.name), None)
