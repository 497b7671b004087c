"""Check training on a GPU against the CPU, in a few minutes: networks, updates, speed, memory and a change of device.

    python tools/cuda_check.py
    python tools/cuda_check.py --env Krull --device cuda:1

A short run trains on each device. Random streams differ between devices, so the runs do. What must agree is computed
from two checkpoints of the CPU's run, from before and after the freeze: the outputs of the encoder and of the head, and
the weights after one update from the same batch with the same noise. At the end the CPU's run resumes on the GPU.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from commandline import FaultError, Parser, progress, render, run_tool

if TYPE_CHECKING:
    from seer_edge.training.session import Session

STEPS, STARTS, FREEZE, MORE = 2_400, 400, 1_400, 200
TOLERANCES = {"encoder": 1e-4, "head": 1e-3, "update": 1e-4}
"""Largest accepted difference: of outputs relative to the largest output, of weights absolute."""
TIMEOUT_SECONDS = 240


def check(flags: argparse.Namespace) -> int:
    """Run everything and print the tables; return the exit status."""
    from seer_edge.machine.devices import check_device

    check_device(flags.device)
    with tempfile.TemporaryDirectory() as place:
        runs = {device: Path(place) / device.replace(":", "") for device in ("cpu", flags.device)}
        summaries = {device: _train(flags, device, run) for device, run in runs.items()}
        print(render(("", *summaries), list(_figures(summaries))))
        failed = list(_compare(runs["cpu"], flags.device))
        progress(f"the run of the CPU continues with --device {flags.device}")
        _run("resume", str(runs["cpu"]), "--device", flags.device, "--total-timesteps", str(STEPS + MORE), "--quiet")
    print(f"a run that started on the CPU resumed with --device {flags.device}")
    if failed:
        raise FaultError(f"differs by more than is accepted: {', '.join(failed)}")
    return 0


def _train(flags: argparse.Namespace, device: str, run: Path) -> dict[str, Any]:
    progress(f"{STEPS:,} steps with --device {device}")
    words = ["--env", flags.env, "--mem-budget", "20MB", "--total-timesteps", str(STEPS), "--freeze-at", str(FREEZE)]
    words += ["--set", f"learning_starts={STARTS}", "--eval-every", "never", "--quiet", "--pipeline", "off"]
    words += ["--keep-checkpoint", str(FREEZE - 1), "--device", device, "--run-dir", str(run)]
    _run("train", *words)
    return dict(json.loads((run / "summary.json").read_text()))


def _run(*words: str) -> None:
    command = [sys.executable, "-m", "seer_edge", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise FaultError(f"`seer-edge {' '.join(words)}` did not end in {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FaultError(f"`seer-edge {' '.join(words)}` ended with status {done.returncode}: {last[0]}")


def _figures(summaries: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    def row(name: str, *keys: str, scale: float = 1.0) -> tuple[str, ...]:
        cells = []
        for summary in summaries.values():
            value: Any = summary
            for key in keys:
                value = None if value is None else value[key]
            cells.append("-" if value is None else f"{value * scale:.4g}")
        return (name, *cells)

    yield row("steps a second, pixels", "steps_per_second", "pixel")
    yield row("steps a second, latents", "steps_per_second", "latent")
    yield row("peak RSS, MB", "rss_peak_bytes", scale=1e-6)
    yield row("ONNX Runtime against torch", "freeze", "onnx_max_abs_error")


def _compare(run: Path, device: str) -> Iterator[str]:
    """Print the differences between both devices; yield the names of those that are too large."""
    import torch

    from seer_runtime.onnx.encoder import providers
    from seer_runtime.onnx.load import onnx_runtime

    chosen = providers(device, onnx_runtime().get_available_providers())
    print(f"ONNX Runtime runs the frozen encoder with {chosen[0] if isinstance(chosen[0], str) else chosen[0][0]}")
    lines = []
    for at in (FREEZE - 1, STEPS):
        progress(f"networks and updates at step {at:,}")
        here, there = _session(run, at, "cpu"), _session(run, at, device)
        for name, difference in _differences(here, there):
            lines.append((f"step {at:,}: {name}", f"{difference:.1e}", f"{TOLERANCES[name]:.0e}"))
            if not difference <= TOLERANCES[name]:
                yield f"{name} at step {at:,}"
        here.env.close()
        there.env.close()
    print(render(("difference", "found", "accepted"), lines))
    if torch.device(device).type == "cuda":
        print(f"peak GPU memory of both sessions: {torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB")


def _session(run: Path, at: int, device: str) -> "Session":
    from seer_edge.config.plan import make_plan
    from seer_edge.machine.host import prepare_compute
    from seer_edge.runs import checkpoint
    from seer_edge.training.session import resume_session

    saved = checkpoint.newest(run / "checkpoints", at=at)
    config = dataclasses.replace(saved.config, device=device)
    assert config.environment is not None  # this version recorded it
    prepare_compute(config)
    return resume_session(make_plan(config, config.environment, frozen=saved.frozen), saved)[0]


def _differences(here: "Session", there: "Session") -> Iterator[tuple[str, float]]:
    """Yield the differences between two sessions of the same checkpoint."""
    import torch

    batches = [session.replay.sample(0.5, positives=session.agent.contrasts) for session in (here, there)]
    latents = []
    for session, batch in zip((here, there), batches, strict=True):
        pieces = [piece.copy() for piece in batch.observations.slices()]
        agent = session.agent
        found = [torch.from_numpy(p) if agent.reads_latents else agent.encode(p).cpu() for p in pieces]
        latents.append(torch.cat(found))
    if not here.agent.reads_latents:
        yield "encoder", _relative(*(found.numpy() for found in latents))
    outputs = [session.agent.outputs(latents[0].to(session.agent.device)).cpu().numpy() for session in (here, there)]
    yield "head", _relative(*outputs)
    for session, batch in zip((here, there), batches, strict=True):
        session.agent.refresh()
        if session is there:
            _copy_noise(here, there)
            session.agent.refresh(new_noise=False)
        session.agent.update(batch, session.agent.prepare(batch))
    weights = [
        {name: tensor.detach().cpu().numpy() for name, tensor in session.agent.tensors() if "optimizer" not in name}
        for session in (here, there)
    ]
    yield "update", max(float(np.abs(array - weights[1][name]).max()) for name, array in weights[0].items())


def _copy_noise(here: "Session", there: "Session") -> None:
    for head in ("head", "target_head"):
        for source, target in zip(
            getattr(getattr(here.agent, head, None), "noise", ()),
            getattr(getattr(there.agent, head, None), "noise", ()),
            strict=True,
        ):
            target.copy_(source)


def _relative(first: Any, second: Any) -> float:
    return float(np.abs(first - second).max() / max(float(np.abs(first).max()), 1e-12))


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="cuda_check.py", description="Check training on a GPU against the CPU.")
    parser.add_argument(
        "--env", default="Alien", metavar="NAME", help="Atari game (Alien); the agent needs discrete actions"
    )
    parser.add_argument("--device", default="cuda", metavar="NAME", help="device to check (cuda)")
    return run_tool("cuda_check.py", lambda: check(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
