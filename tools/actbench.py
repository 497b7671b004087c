"""Measure acting from a bundle: start-up, memory, time per frame, and agreement with the torch agent's actions.

    python tools/actbench.py policy.seer --run RUN

RUN is the run that the bundle was exported from. Frames are real: the policy plays its environment, with one random
action in ten. Each part runs in a separate process. The one that acts has one core and does not import torch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commandline import EXIT_FAULT, BadInputError, FaultError, Parser, count, mb, progress, run_tool

RANDOM_STEPS = 0.1
TIE = 1e-4
"""Two actions count as equally good where their values differ by less than this fraction of the largest value."""
GAMES = 2


# --- children --------------------------------------------------------------------------------------------------


def collect(bundle: str, folder: str, frames: int) -> None:
    """Play, and write each frame and a flag for the first frame of an episode to files in `folder`."""
    import numpy as np

    from seer_edge.deploy.act import Origin, opened
    from seer_edge.envs import make_env
    from seer_runtime import Policy

    with opened(Path(bundle)) as held:
        origin, policy = Origin.of(held), Policy.of(held)
    env, rng = make_env(origin.env, origin.options, seed=1, training=False), np.random.default_rng(1)
    with Path(folder, "frames").open("wb") as file, Path(folder, "firsts").open("wb") as firsts:
        frame, first = env.reset(), True
        for _ in range(frames):
            file.write(frame.tobytes())
            firsts.write(bytes([first]))
            if first:
                policy.reset()
            action = policy.act_normalized(frame)
            step = env.step(env.spec.actions.sample(rng) if rng.random() < RANDOM_STEPS else action)
            first = step.terminated or step.truncated
            frame = env.reset() if first else step.frame
    env.close()


def act(bundle: str, folder: str, threads: int) -> None:
    """Act on the collected frames; print a line after the first action and the measurements at the end."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import numpy as np

    from seer_runtime import Policy

    policy = Policy.load(bundle, threads=threads)
    seconds, actions = [], []
    for frame, first in _frames(folder, policy.spec.frame_shape):
        begin = time.perf_counter()
        if first:
            policy.reset()
        actions.append(policy.act_normalized(frame))
        seconds.append(time.perf_counter() - begin)
        if len(actions) == 1:
            print("first", flush=True)
    from seer_runtime.system.process import rss_peak_bytes

    peak = rss_peak_bytes()
    np.save(Path(folder, "actions.npy"), np.array(actions))
    percentiles = [float(value) * 1e3 for value in np.percentile(seconds, (50, 90, 99))]
    print(json.dumps({"rss_peak_bytes": peak, "milliseconds": percentiles, "torch": "torch" in sys.modules}))


def compare(run: str, folder: str) -> None:
    """Compare the torch agent's outputs on the same frames with the recorded actions, and print the counts."""
    import numpy as np
    import torch

    from seer_edge.agents import make_agent
    from seer_edge.config.plan import make_plan
    from seer_edge.envs import Discrete, make_env
    from seer_edge.runs import checkpoint
    from seer_runtime.policy.preprocess import FrameStack

    torch.set_num_threads(1)
    saved, state = checkpoint.newest_agent(Path(run) / "checkpoints")
    env = make_env(saved.config.env, saved.config.env_options, seed=0, training=False)
    env.close()
    plan = make_plan(saved.config, env.spec, frozen=saved.frozen)
    if plan.encoder.outside:
        raise SystemExit(f"{run}: its encoder runs in ONNX Runtime only, so there is no torch agent to compare with")
    agent = make_agent(plan, seed=0)
    if saved.frozen:
        agent.freeze_encoder(reads_latents=saved.graph is not None)
    agent.restore(state)
    depth, shape = plan.config.settings.stack, env.spec.frame_shape
    stack = FrameStack(depth, shape, np.zeros((depth, *shape), np.uint8))
    view = np.zeros((*stack.frames.shape[:-2], *plan.crop.size), np.uint8)
    outputs = []
    with torch.no_grad():
        for frame, first in _frames(folder, shape):
            plan.crop.cut(stack.push(frame, first=first), plan.crop.center, view)
            latents = agent.encoder(torch.from_numpy(view.reshape(1, -1, *plan.crop.size)))
            outputs.append(_outputs(agent, latents))
    values, actions = np.stack(outputs), np.load(Path(folder, "actions.npy"))
    if not isinstance(env.spec.actions, Discrete):
        print(json.dumps({"largest_difference": float(np.abs(values[:, : env.spec.actions.size] - actions).max())}))
        return
    rows = np.arange(len(values))
    behind = values.max(axis=1) - values[rows, actions]
    same, near = behind == 0, behind <= TIE * np.maximum(1, np.abs(values).max(axis=1))
    print(json.dumps({"same": int(same.sum()), "ties": int((near & ~same).sum()), "other": int((~near).sum())}))


def _outputs(agent: Any, latents: Any) -> Any:
    """Return the Q-values `[actions]` or controls `[A]` for latents `[1, N, L]` of the whole encoder."""
    import torch

    from seer_edge.agents.rainbow import RainbowAgent

    if isinstance(agent, RainbowAgent):
        logits = agent.head(latents[:, 0], agent.head.mean_weights())
        return (logits.exp() @ agent.support)[0].numpy()
    return torch.tanh(agent.actor(latents[:, 1])[0])[0].numpy()


def _frames(folder: str, shape: tuple[int, ...]) -> Iterator[tuple[Any, bool]]:
    """Yield each frame in separate memory, and whether it is the first of an episode."""
    import math

    import numpy as np

    with Path(folder, "frames").open("rb") as frames, Path(folder, "firsts").open("rb") as firsts:
        while data := frames.read(math.prod(shape)):
            yield np.frombuffer(data, np.uint8).reshape(shape), firsts.read(1) == b"\x01"


# --- the parent ------------------------------------------------------------------------------------------------


def _child(job: str, *arguments: object) -> tuple[list[str], float]:
    """Run a child; return the lines that it printed, and the seconds until the first one."""
    command = [sys.executable, __file__, "--child", job, *map(str, arguments)]
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = [child.stdout.readline()]
    first_seconds = time.perf_counter() - begin
    lines += child.stdout.readlines()
    if child.wait() != 0:
        raise FaultError(f"the child for {job} ended with status {child.returncode}")
    return lines, first_seconds


def check_origin(bundle: Path, run: Path) -> None:
    """Raise BadInputError unless the bundle's head is that of the run's newest checkpoint, byte for byte."""
    from seer_edge.config.plan import make_plan
    from seer_edge.deploy.act import opened
    from seer_edge.envs import make_env
    from seer_edge.runs import checkpoint
    from seer_edge.runs.run_folder import open_run
    from seer_runtime.policy.bundle import HEAD

    with opened(bundle) as held:
        head = held.read(HEAD)
    saved, agent = checkpoint.newest_agent(open_run(run).checkpoints)
    env = make_env(saved.config.env, saved.config.env_options, seed=0, training=False)
    env.close()
    plan = make_plan(saved.config, env.spec, frozen=saved.frozen)
    if plan.networks.policy_graph(plan.config.settings, agent.arrays) != head:
        raise BadInputError(
            f"--run {run}: {bundle} is not from step {saved.timestep:,} of this run; "
            "give the run that it was exported from, or export it again"
        )


def measure(bundle: Path, run: Path | None, frames: int, threads: int) -> int:
    """Measure and print; return the exit status: 1 where actions differ that are not near-ties."""
    if not bundle.is_file():
        raise BadInputError(f"{bundle}: not a file; give a bundle from `seer-edge export`")
    if run is not None:
        check_origin(bundle, run)
    with tempfile.TemporaryDirectory() as folder:
        progress(f"{frames:,} frames")
        _child("collect", bundle, folder, frames)
        progress("acting")
        lines, first_seconds = _child("act", bundle, folder, threads)
        found = json.loads(lines[-1])
        p50, p90, p99 = found["milliseconds"]
        print(f"first action              {first_seconds:.2f} s after the start of the process")
        print(f"frame to action           p50 {p50:.3f} ms, p90 {p90:.3f} ms, p99 {p99:.3f} ms ({threads} core)")
        print(f"RSS peak                  {mb(found['rss_peak_bytes'])} MB without the environment")
        print(f"torch imported            {'yes' if found['torch'] else 'no'}")
        progress("acting with the environment")
        command = [sys.executable, "-m", "seer_edge", "act", str(bundle), "--episodes", str(GAMES), "--json"]
        played = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"RSS peak                  {mb(played['rss_peak_bytes'])} MB with the environment")
        if run is None:
            return 0
        progress("the torch agent")
        (line,), _ = _child("compare", run, folder)
        agreement = json.loads(line)
        if "other" not in agreement:
            largest = agreement["largest_difference"]
            print(f"controls and torch's      differ by {largest:.1e} at most, {frames:,} frames")
            return 0
        print(
            f"actions and torch's       {agreement['same']:,} of {frames:,} equal, {agreement['ties']:,} near-ties, "
            f"{agreement['other']:,} different"
        )
        return EXIT_FAULT if agreement["other"] else 0


def main() -> int:
    """Run the command line; return the exit status."""
    if sys.argv[1:2] == ["--child"]:
        job, *words = sys.argv[2:]
        if job == "compare":
            compare(*words)
        else:
            {"collect": collect, "act": act}[job](words[0], words[1], int(words[2]))
        return 0

    def run() -> int:
        parser = Parser(prog="actbench.py", description=(__doc__ or "").splitlines()[0])
        parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle from `seer-edge export`")
        parser.add_argument("--run", type=Path, metavar="RUN", help="compare with the torch agent of this run")
        parser.add_argument("--frames", type=count, default=10_000, metavar="N", help="real frames (10000)")
        parser.add_argument("--threads", type=count, default=1, metavar="N", help="compute threads and cores (1)")
        flags = parser.parse_args()
        return measure(flags.bundle, flags.run, flags.frames, flags.threads)

    return run_tool("actbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
