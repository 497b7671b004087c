"""What each way to make frames of Atari screens costs: time of a frame and of a step, and bytes under LZ4.

    python tools/framebench.py --env CrazyClimber

Both ways see the same screens of a random policy. They are timed in turns, one thread, so that whatever else the
machine does disturbs both alike.
"""

import statistics
import sys
import time
from typing import Any

from commandline import BadInputError, Parser, add_env_flags, count, render, require, run_tool

BLOCK_STEPS = 20
BLOCK_FRAMES = 16


def figures(env: str, steps: int, seed: int) -> list[tuple[str, ...]]:
    """A line a way: microseconds of a frame and of a step, LZ4 bytes of a frame and of 16 XORed ones."""
    import cv2
    import numpy as np

    from seer_edge.envs import EnvError, EnvOptions, make_env, resolve
    from seer_runtime.policy.preprocess import RESIZES, pool_and_resize

    try:
        kind = resolve(env).kind
    except EnvError as error:
        raise BadInputError(f"--env {env}: {error}") from error
    if kind != "atari":
        raise BadInputError(f"--env {env}: is no Atari game; name one, such as Alien")
    cv2.setNumThreads(1)
    games: dict[str, Any] = {how: make_env(env, EnvOptions(resize=how), seed=seed, training=True) for how in RESIZES}
    size = next(iter(games.values())).spec.frame_shape
    frames: dict[str, list[Any]] = {how: [game.reset()] for how, game in games.items()}
    frame_seconds: dict[str, list[float]] = {how: [] for how in RESIZES}
    step_seconds: dict[str, list[float]] = {how: [] for how in RESIZES}
    actions = np.random.default_rng(seed).integers(games["area"].spec.actions.count, size=steps)
    for begin in range(0, steps, BLOCK_STEPS):
        for how in RESIZES if begin // BLOCK_STEPS % 2 else reversed(RESIZES):
            game = games[how]
            for action in actions[begin : begin + BLOCK_STEPS]:
                since = time.thread_time()
                step = game.step(action)
                step_seconds[how].append(time.thread_time() - since)
                frames[how].append(step.frame)
                if step.terminated or step.truncated:
                    frames[how].append(game.reset())
        older, newer = games["bilinear"]._older, games["bilinear"]._newer
        pooled = np.empty_like(newer)
        for how in RESIZES:
            since = time.thread_time()
            for _ in range(BLOCK_STEPS):
                pool_and_resize(older, newer, size, how, pooled=pooled)
            frame_seconds[how].append((time.thread_time() - since) / BLOCK_STEPS)
    gray = np.abs(np.stack(frames["area"]).astype(int) - np.stack(frames["bilinear"]))
    print(f"{games['area'].spec.name}, {steps:,} steps; the frames differ by {gray.mean():.2f} gray levels")
    return [
        (
            how,
            *(f"{statistics.median(taken[how]) * 1e6:.0f}" for taken in (frame_seconds, step_seconds)),
            *(f"{size_bytes:,.0f}" for size_bytes in compressed(frames[how])),
        )
        for how in RESIZES
    ]


def compressed(frames: list[Any]) -> tuple[float, float]:
    """Mean LZ4 bytes of a frame: alone, and in blocks of 16 frames, each XORed with the one before it."""
    import lz4.block
    import numpy as np

    alone = [len(lz4.block.compress(frame.tobytes(), store_size=False)) for frame in frames]
    blocks = []
    for begin in range(0, len(frames) - BLOCK_FRAMES + 1, BLOCK_FRAMES):
        block = np.stack(frames[begin : begin + BLOCK_FRAMES])
        block[1:] ^= block[:-1].copy()
        blocks.append(len(lz4.block.compress(block.tobytes(), store_size=False)) / BLOCK_FRAMES)
    return statistics.fmean(alone), statistics.fmean(blocks)


def main() -> int:
    """Command line."""

    def run() -> int:
        parser = Parser(prog="framebench.py", description=(__doc__ or "").splitlines()[0])
        add_env_flags(parser)
        parser.add_argument(
            "--steps",
            type=lambda text: count(text, BLOCK_FRAMES),
            default=2_000,
            metavar="N",
            help="of the random policy (2000)",
        )
        flags = parser.parse_args()
        require("bench", "lz4")
        header = ("frames", "a frame, us", "a step, us", "LZ4, B", "LZ4 of 16 XORed, B")
        print(render(header, figures(flags.env, flags.steps, flags.seed)))
        return 0

    return run_tool("framebench.py", run)


if __name__ == "__main__":
    sys.exit(main())
