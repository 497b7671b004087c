"""Times an update before and after the freeze on real data, one thread, the machine's matrix rate beside it.

python tools/speedbench.py --env cartpole-swingup

An update is what the loop makes of a batch that was drawn: decoding its observations and all of the agent's steps.
Batch, sizes and encoder are those of the task's preset.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from commandline import add_env_flags, answer, count, open_environment, render, say

if TYPE_CHECKING:
    from seer_edge.config import TrainConfig
    from seer_edge.loop import Session

PRODUCT_SIDE = 2048
PIXEL_UPDATES, LATENT_UPDATES = 10, 100


def milliseconds(job: Callable[[], object], times: int) -> list[float]:
    """How long each of `times` calls took, after one that does not count, in ascending order."""
    job()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        job()
        taken.append(1e3 * (time.perf_counter() - begin))
    return sorted(taken)


def matrix_rate() -> float:
    """float32 GFLOP/s of a square matrix product, the best of five."""
    import torch

    square = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE)
    return 2 * PRODUCT_SIDE**3 / (1e6 * milliseconds(lambda: square @ square, 5)[0])


def update(session: "Session") -> None:
    """One update, without a step of the environment."""
    session.agent.update(session.replay.sample())


def measure(flags: argparse.Namespace) -> int:
    """Print the table."""
    environment = open_environment(flags, flags.resolution)
    spec = environment.spec
    environment.close()

    from seer_edge import checkpoint
    from seer_edge.config import build_config
    from seer_edge.freeze import freeze
    from seer_edge.host import prepare_compute
    from seer_edge.loop import build_session
    from seer_edge.plan import make_plan

    config = build_config(spec, resolution=flags.resolution, seed=flags.seed, threads=flags.threads)
    plan = make_plan(config, spec)
    prepare_compute(config)
    rates = [matrix_rate()]
    session = build_session(plan)
    # No updates while the replay fills with rows enough to sample from.
    learning, session.plan = session.plan, replace(plan, config=_without_learning(config))
    settings = config.settings
    for _ in range(4 * settings.batch_size + settings.n_step):
        session.step()
    session.plan = learning
    say("updates before the freeze")
    lines = [("update before the freeze", milliseconds(lambda: update(session), PIXEL_UPDATES))]
    with tempfile.TemporaryDirectory() as folder:
        freeze(session, Path(folder) / "encoder.onnx", lambda: checkpoint.save(session, Path(folder) / "checkpoints"))
    say("updates after the freeze")
    lines.append(("update after the freeze", milliseconds(lambda: update(session), LATENT_UPDATES)))
    rates.append(matrix_rate())
    session.env.close()
    frames = "x".join(map(str, plan.encoder.input_shape))
    print(
        f"{spec.id}, {spec.actions}, {config.algo}, {config.encoder}, {frames}, batch {settings.batch_size}, "
        f"{config.threads} thread{'s' if config.threads > 1 else ''}; "
        f"fp32 product {rates[0]:.0f} GFLOP/s before, {rates[1]:.0f} after"
    )
    rows = [
        (name, f"{taken[0]:.1f}", f"{taken[len(taken) // 2]:.1f}", f"{sum(taken) / len(taken):.1f}", f"{taken[-1]:.1f}")
        for name, taken in lines
    ]
    print(render(("ms", "least", "median", "mean", "most"), rows))
    return 0


def _without_learning(config: "TrainConfig") -> "TrainConfig":
    return replace(config, settings=replace(config.settings, learning_starts=sys.maxsize, random_steps=sys.maxsize))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time an update before and after the freeze.")
    add_env_flags(parser)
    parser.add_argument("--resolution", type=count, metavar="N", help="side of a frame (the environment's own)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="compute threads (1)")
    flags = parser.parse_args()
    return answer("speedbench.py", lambda: measure(flags))


if __name__ == "__main__":
    sys.exit(main())
