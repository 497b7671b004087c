"""Record small runs and a bundle with their results, with which `test_golden.py` compares later versions.

    python tests/golden/record.py FOLDER

The archives in this folder were made by the version before `resize` and `blank_at_lost_life` were recorded, with its
sources first on the path. Each holds a run that was stopped. `expected.json` has the result of the same
version once it had finished the run.
"""

import dataclasses
import functools
import hashlib
import json
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

import seer_edge.envs.games
from seer_edge.config.config import TrainConfig
from seer_edge.deploy.act import Game, play_bundle
from seer_edge.envs import Step
from seer_edge.envs.guarded import Guarded
from seer_runtime import Policy, durable
from tests.faults import runs

HERE = Path(__file__).parent
BUNDLE, EXPECTED = "policy.seer", "expected.json"
SAMPLES = 4
GAME_STEPS, SCREENS = 300, 50
COMMON: dict[str, Any] = {"eval_every": 1_000, "checkpoint_every_steps": 1_000}


def road_runner(learning_starts: int, **changes: Any) -> TrainConfig:
    """160 steps of RoadRunner at 25x25, which loses a life or a game every 10 to 40; the freeze at 90."""
    settings = dataclasses.replace(runs.alien().settings, learning_starts=learning_starts, hidden=8, atoms=11)
    game = {"env": "ALE/RoadRunner-v5", "env_name": "RoadRunner", "preset": "RoadRunner"}
    return runs.alien(**game, settings=settings, resolution=25, mem_budget_bytes=70 * 25 * 25, **COMMON, **changes)


RUNS: dict[str, tuple[TrainConfig, int]] = {
    "rainbow-pixel": (road_runner(80, pipeline=False), 80),  # before its first update: an archive of a third the size
    "rainbow-latent": (road_runner(20, replay="prioritized", latent_codec="uint8"), 120),
    "curl-sac-latent": (runs.cartpole(**COMMON), 44),
}
"""A configuration and the step at which the run is stopped; the freezes are at 90 and 36."""


# --- compared results --------------------------------------------------------------------------------------


def machine() -> list[str]:
    """Return the machine and the versions that decide the last bits of floats."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return [model, torch.__version__, np.__version__]


def digest(array: NDArray[Any]) -> dict[str, Any]:
    """Return shape, dtype and hash of an array, its norm and a few of its elements."""
    flat = array.ravel().astype(np.float64)
    chosen = np.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat))).astype(int)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
        "norm": float(np.linalg.norm(flat)),
        "samples": flat[chosen].tolist(),
    }


def outcome(run: Path) -> dict[str, Any]:
    """Return the arrays, counts and random streams of the newest checkpoint of a run."""
    newest = runs.newest(run)
    state = json.loads((newest / "state.json").read_text())
    files = sorted(newest.glob("*.safetensors"))
    arrays = {f"{file.stem}.{name}": array for file in files for name, array in durable.read_tensors(file).items()}
    if state["replay"]["codec"] == "float32":
        arrays["replay.rows"] = arrays["replay.rows"].view(np.float32)
    digests = {name: digest(array) for name, array in arrays.items()}
    return {"step": newest.name, "arrays": digests, "state": state}


def played(bundle: Path) -> dict[str, Any]:
    """Play a game with `act`; return its actions, a hash of its frames, and the actions of `Policy.act` on noise."""
    actions: list[int] = []
    frames = hashlib.sha256()
    step = Guarded.step

    def recorded(env: Guarded, action: Any) -> Step:
        done = step(env, action)
        actions.append(int(action))
        frames.update(done.frame.tobytes())
        return done

    game = Game(episodes=1, seed=3, epsilon=0.3)
    with (
        mock.patch.object(Guarded, "step", recorded),
        mock.patch.object(seer_edge.envs.games, "EPISODE_STEPS_MAX", GAME_STEPS),
    ):
        assert play_bundle(bundle, game).returns
    policy, noise = Policy.load(bundle), np.random.default_rng(0)
    screens = (noise.integers(0, 256, (210, 160, 3), np.uint8) for _ in range(SCREENS))
    library = [int(policy.act(screen)) for screen in screens]  # type: ignore[arg-type]
    return {"actions": actions, "frames": frames.hexdigest(), "library": library, "values": policy.values.tolist()}


# --- recording ---------------------------------------------------------------------------------------------


def _pack(run: Path, archive: Path) -> None:
    """Pack the run's folder with only the newest of its checkpoints."""

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        older = "/step_" in info.name and runs.newest(run).name not in info.name
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return None if older or Path(info.name).name.startswith(".") else info

    with tarfile.open(archive, "w:xz") as packed:
        packed.add(run, run.name, filter=kept)


def _stop(step: int, send: Any) -> None:
    runs.at_call("seer_edge.training.session:Session.step", step, lambda: os.kill(os.getpid(), signal.SIGTERM))


def record(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make all files again in `folder`; yield the parts of `expected.json`."""
    yield "machine", {"identity": machine()}
    for name, (config, step) in RUNS.items():
        run, log = folder / name, folder / "log"
        assert (
            runs.start(log, runs.train, config, run, prepare=functools.partial(_stop, step)).join()
            == 128 + signal.SIGTERM
        )
        _pack(run, folder / f"{name}.tar.xz")
        if name == "rainbow-latent":
            assert runs.start(log, runs.command, "export", run, "-o", folder / BUNDLE).join() == 0
            yield BUNDLE, played(folder / BUNDLE)
        assert runs.start(log, runs.command, "resume", run).join() == 0
        yield name, outcome(run)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    parts = (f"{json.dumps(name)}: {json.dumps(part)}" for name, part in record(target))
    (target / EXPECTED).write_text("{" + ",\n".join(parts) + "}\n")
