"""`seer-edge doctor`: what this board has, what is missing and how to mend it, and what to run on it. No torch."""

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

from seer_edge.config.config import build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.envs import Discrete, EnvSpec, rendering
from seer_edge.machine.board import FEATURES, Board, Profile, deploy_folder, profile_of, this_board
from seer_edge.machine.ceiling import fitted
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
    "train": {"torch": ("torch",), "onnx": ("onnx",), "gymnasium": ("gymnasium",), "tqdm": ("tqdm",)},
    "atari": {"ale_py": ("ale-py",), "gymnasium": ("gymnasium",)},
    "dmc": {"dm_control": ("dm_control",), "mujoco": ("mujoco",)},
}
"""By extra: what is imported, and the distributions that it may come in, ours first."""
FOR = {"train": "learning", "atari": "Atari games", "dmc": "control tasks"}
BUDGET_BYTES = 70_000_000
"""Where no profile says better: the preset's, for which its hyperparameters were chosen."""
MOST_BYTES = 10**10
TYPICAL = EnvSpec("a camera", "camera", (84, 84), (84, 84), Discrete(18))
"""What the budget is recommended for: Rainbow over frames of the default size."""
THREADS = 2
ENV, BUNDLE = "Alien", "policy.seer"
"""What stands in a recommended command: an environment that every install can name, and what `export` was told."""


@dataclass(frozen=True)
class Need:
    """Something that is missing, and the mend."""

    what: str
    mend: str


@dataclass(frozen=True)
class Advice:
    """What to run, as it can be pasted; sizes are bytes."""

    command: str
    why: str | None  # it is not training from pixels
    mem_budget_bytes: int | None  # None: there is no room to learn
    most_budget_bytes: int | None  # that would fit
    threads: int


@dataclass(frozen=True)
class Report:
    """All that `doctor` says."""

    board: Board
    profile: Profile | None
    memory: MemoryLimits
    parts: dict[str, dict[str, str | None]]  # version by import name by extra; None for what is missing
    providers: tuple[str, ...]  # of ONNX Runtime
    needs: tuple[Need, ...]
    advice: Advice

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "service": str(deploy_folder())}

    def render(self) -> str:
        """For people."""
        board, advice = self.board, self.advice
        features = ", ".join(f"{name} ({FEATURES[name]})" for name in board.features) or "none that matter"
        rows = [
            ("board", board.name + (f" (profile {self.profile.name})" if self.profile else "")),
            ("processor", f"{board.machine}, {board.cpu}, {board.cores} cores"),
            ("features", features),
            ("memory", str(self.memory)),
            *((f"parts, {extra}", _versions(found)) for extra, found in self.parts.items()),
            ("ONNX Runtime runs on", ", ".join(self.providers) or "-"),
            *(("missing", f"{need.what}: {need.mend}") for need in self.needs),
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
    """Look at this machine; the kernel's files are looked up below `root`."""
    board, limits = this_board(root), memory_limits(root)
    profile = profile_of(board)
    parts = {extra: {name: _version(name, found) for name, found in names.items()} for extra, names in PARTS.items()}
    providers = _providers()
    needs = tuple(_needs(board, parts, providers, root))
    return Report(board, profile, limits, parts, providers, needs, advise(board, profile, limits))


def doctor(*, as_json: bool) -> int:
    """Print the report; returns the exit status."""
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
    return "of unknown version"


def _versions(found: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())


def _providers() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return tuple(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())


def _needs(
    board: Board, parts: Mapping[str, Mapping[str, str | None]], providers: tuple[str, ...], root: Path
) -> Iterator[Need]:
    for extra, found in parts.items():
        missing = [PARTS[extra][name][0] for name, version in found.items() if version is None]
        if missing:
            # An extra's range of torch must not take the place of a build that is there.
            whole = "torch" in missing or extra != "train"
            name = "seer-edge" if extra == BASE else f"'seer-edge[{extra}]'"
            mend = rendering.INSTALL_HINT if extra == "dmc" else f"pip install {name if whole else ' '.join(missing)}"
            yield Need(f"{', '.join(missing)}, for {FOR.get(extra, 'everything')}", mend)
    torch = parts["train"]["torch"]
    # Builds from 2.10 on end with an illegal instruction on Cortex-A53 and A72, which have no LSE atomics.
    if torch and board.machine == "aarch64" and "atomics" not in board.features and _at_least(torch, (2, 10)):
        yield Need(f"a torch that runs on {board.cpu}: {torch} does not", "pip install 'torch<2.10'")
    if parts["dmc"]["dm_control"] and not any(map(ctypes.util.find_library, ("EGL", "OSMesa"))):
        yield Need("EGL or OSMesa, to render control tasks", "sudo apt-get install libegl1 libgl1-mesa-dri")
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    if controllers.exists() and "memory" not in controllers.read_text().split():
        yield Need(
            "the memory controller of cgroups, without which a service's MemoryMax means nothing",
            "add cgroup_enable=memory to the kernel's command line (/boot/firmware/cmdline.txt on a Pi), then reboot",
        )
    if "Jetson" in board.name and "CUDA" not in providers:
        yield Need(
            "ONNX Runtime with CUDA, for --device cuda",
            "install NVIDIA's onnxruntime-gpu wheel for the JetPack in use, in place of onnxruntime",
        )


def _at_least(version: str, least: tuple[int, int]) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= least


# --- advice ----------------------------------------------------------------------------------------------------


def advise(board: Board, profile: Profile | None, limits: MemoryLimits) -> Advice:
    """The budget of the profile, or the preset's, where it fits into the memory that there is; else what does.

    Where training from pixels does not fit: learning on from a bundle, and where that does not either: acting.
    """
    # One core is the environment's: an update runs beside it (decision 11).
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
            why = None if source is None else f"{format_size(room)} are too little to train an encoder in"
            return Advice(command, why, budget, most, threads)
    return Advice(f"seer-edge act {BUNDLE}", f"{format_size(room)} are too little to learn in", None, None, threads)


def _typical(source: str | None) -> BytePlan:
    return make_plan(build_config(TYPICAL, mem_budget_bytes=MOST_BYTES, source=source), TYPICAL)
