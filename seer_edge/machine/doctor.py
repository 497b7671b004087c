"""`seer-edge doctor`: report the computer, missing parts with the command that fixes each, and a command to run.

Imports no torch.
"""

import ctypes.util
import dataclasses
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.build import build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.envs import Discrete, EnvSpec, rendering
from seer_edge.machine.board import FEATURES, Board, Profile, deploy_folder, profile_of, this_board
from seer_edge.machine.ceiling import fitted
from seer_runtime.onnx.load import onnx_runtime
from seer_runtime.system.memory import MemoryLimits, memory_limits
from seer_runtime.system.process import RssCeiling
from seer_runtime.system.units import exact_size, format_size, parse_size

BASE = "base"
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    BASE: {
        "numpy": ("numpy",),
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
        "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
        "psutil": ("psutil",),
    },
    "train": {
        "torch": ("torch",),
        "onnx": ("onnx",),
        "gymnasium": ("gymnasium",),
        "tqdm": ("tqdm",),
        "zstandard": ("zstandard",),
    },
    "atari": {"ale_py": ("ale-py",), "gymnasium": ("gymnasium",)},
    "dmc": {"dm_control": ("dm_control",), "mujoco": ("mujoco",)},
}
"""For each extra: the modules that it needs, and the distributions that may contain each, the preferred one first."""
PURPOSE = {"train": "learning", "atari": "Atari games", "dmc": "control tasks"}
BUDGET_BYTES = 70_000_000
"""Recommended budget for boards without a profile: the preset's, for which its hyperparameters were chosen."""
MOST_BYTES = 10**10
"""Largest budget that is considered."""
TYPICAL = EnvSpec("a camera", "camera", (84, 84), (84, 84), Discrete(18))
"""The environment that budgets are computed for: Rainbow on frames of the default size."""
THREADS = 2
ENV, BUNDLE = "Alien", "policy.seer"
"""Placeholders in the recommended command: the environment and the bundle."""


@dataclass(frozen=True)
class Need:
    """A missing part, and the command or step that fixes it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Advice:
    """The recommended command line, ready to paste."""

    command: str
    why: str | None  # the reason for not training from pixels; None where the command does
    mem_budget_bytes: int | None  # the recommended budget; None where memory is too small to learn
    most_budget_bytes: int | None  # the largest budget that fits
    threads: int


@dataclass(frozen=True)
class Report:
    """Everything that `doctor` prints."""

    board: Board
    profile: Profile | None
    memory: MemoryLimits
    parts: dict[str, dict[str, str | None]]  # by extra, the version of each module; None for a missing one
    providers: tuple[str, ...]  # execution providers of ONNX Runtime
    needs: tuple[Need, ...]
    advice: Advice

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return {**dataclasses.asdict(self), "service": str(deploy_folder())}

    def render(self) -> str:
        """Return the report as aligned lines of text."""
        board, advice = self.board, self.advice
        features = ", ".join(f"{name} ({FEATURES[name]})" for name in board.features) or "none detected"
        rows = [
            ("board", board.name + (f" (profile {self.profile.name})" if self.profile else "")),
            ("processor", f"{board.machine}, {board.cpu}, {board.cores} cores"),
            ("features", features),
            ("memory", str(self.memory)),
            *((f"parts, {extra}", _versions(found)) for extra, found in self.parts.items()),
            ("ONNX Runtime runs on", ", ".join(self.providers) or "-"),
            *(("missing", f"{need.what}: {need.fix}") for need in self.needs),
            ("recommended", advice.command),
        ]
        if advice.why is not None:
            rows.append(("because", advice.why))
        if self.profile:
            rows.append(("good for", f"{self.profile.use}; torch {self.profile.torch}"))
        if advice.most_budget_bytes is not None and advice.most_budget_bytes < MOST_BYTES:
            rows.append(("budgets that fit", f"up to {exact_size(advice.most_budget_bytes)}"))
        rows.append(("service unit", str(deploy_folder())))
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


def examine(root: Path = Path("/")) -> Report:
    """Examine this computer, reading the kernel's files below `root`."""
    board, limits = this_board(root), memory_limits(root)
    profile = profile_of(board)
    parts = {extra: {name: _version(name, found) for name, found in names.items()} for extra, names in PARTS.items()}
    providers = _providers()
    needs = tuple(_needs(board, parts, providers, root))
    return Report(board, profile, limits, parts, providers, needs, advise(board, profile, limits))


def doctor(*, as_json: bool) -> int:
    """Print the report, as text or as JSON, and return the exit status 0."""
    report = examine()
    print(json.dumps(report.to_json(), indent=2) if as_json else report.render(), flush=True)
    return 0


# --- parts -----------------------------------------------------------------------------------------------------


def _version(module: str, distributions: tuple[str, ...]) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "(unknown version)"


def _versions(found: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())


def _providers() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    available = onnx_runtime().get_available_providers()
    return tuple(name.removesuffix("ExecutionProvider") for name in available)


def _needs(
    board: Board, parts: Mapping[str, Mapping[str, str | None]], providers: tuple[str, ...], root: Path
) -> Iterator[Need]:
    for extra, found in parts.items():
        missing = [PARTS[extra][name][0] for name, version in found.items() if version is None]
        if missing:
            # Installing the whole extra would replace an existing torch, which may be the board vendor's build.
            whole = "torch" in missing or extra != "train"
            name = "seer-edge" if extra == BASE else f"'seer-edge[{extra}]'"
            fix = rendering.INSTALL_HINT if extra == "dmc" else f"pip install {name if whole else ' '.join(missing)}"
            yield Need(f"{', '.join(missing)}, for {PURPOSE.get(extra, 'all commands')}", fix)
    torch = parts["train"]["torch"]
    # torch 2.10 and later use LSE atomics, an illegal instruction on Cortex-A53 and A72.
    if torch and board.machine == "aarch64" and "atomics" not in board.features and _at_least(torch, (2, 10)):
        yield Need(f"a torch build for {board.cpu} (torch {torch} does not run on it)", "pip install 'torch<2.10'")
    if parts["dmc"]["dm_control"] and not any(map(ctypes.util.find_library, ("EGL", "OSMesa"))):
        yield Need("EGL or OSMesa, to render control tasks", "sudo apt-get install libegl1 libgl1-mesa-dri")
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    if controllers.exists() and "memory" not in controllers.read_text().split():
        yield Need(
            "the cgroup memory controller; without it a service's MemoryMax has no effect",
            "add cgroup_enable=memory to the kernel's command line (/boot/firmware/cmdline.txt on a Pi), then reboot",
        )
    if "Jetson" in board.name and "CUDA" not in providers:
        yield Need(
            "ONNX Runtime with CUDA, for --device cuda",
            "replace onnxruntime by NVIDIA's onnxruntime-gpu wheel for your JetPack version",
        )


def _at_least(version: str, least: tuple[int, int]) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= least


# --- advice ----------------------------------------------------------------------------------------------------


def advise(board: Board, profile: Profile | None, limits: MemoryLimits) -> Advice:
    """Recommend a command for the available memory.

    Prefer training from pixels, then continuing from a bundle, then acting from a bundle. The budget is the profile's,
    or the preset's where the board has no profile, lowered to the largest that fits.
    """
    # Leave one core to the environment, which runs at the same time as an update (decision 11).
    threads = max(1, min(profile.threads if profile else THREADS, board.cores - 1))
    wanted = parse_size(profile.mem_budget) if profile else BUDGET_BYTES
    set_limits = (limits.cgroup_bytes, limits.address_space_bytes)
    room = min([limits.available_bytes, *(limit for limit in set_limits if limit is not None)])
    for source in (None, BUNDLE):
        largest = fitted(_typical(source), int(RssCeiling.WARN_FRACTION * room))
        if largest is not None:
            most = largest.config.mem_budget_bytes
            budget = min(wanted, most)
            start = "" if source is None else f"--from {source} "
            command = f"seer-edge train --env {ENV} {start}--mem-budget {exact_size(budget)} --threads {threads}"
            why = None if source is None else f"{format_size(room)} of memory is too little to train an encoder"
            return Advice(command, why, budget, most, threads)
    why = f"{format_size(room)} of memory is too little to learn"
    return Advice(f"seer-edge act {BUNDLE}", why, None, None, threads)


def _typical(source: str | None) -> BytePlan:
    return make_plan(build_config(TYPICAL, mem_budget_bytes=MOST_BYTES, source=source), TYPICAL)
