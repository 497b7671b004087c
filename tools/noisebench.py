"""Measure the bytes of compressed frames of a simulated noisy camera, with 256, 64, 32 and 16 gray levels.

    python tools/noisebench.py --env Alien
    python tools/noisebench.py --env cartpole-swingup

The scene is 84x84 gray frames of a random policy. Two faults of cameras are added to them. Sensor noise of strength s
is read noise, with a standard deviation of s gray levels, and shot noise, which is as strong as that at gray level 128
and whose variance grows with the signal. JPEG compression has the artefacts of a quality. The frames are compressed in
blocks like those of `--store compact`.
"""

import sys
from typing import TYPE_CHECKING, Any

from commandline import FaultError, Parser, add_env_flags, count, open_environment, render, run_tool

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from seer_edge.envs import Environment

    Frames = NDArray[Any]
    """uint8 `[N, 84, 84]`."""

SIDE = 84
MIDDLE = 128
STRENGTHS = (1, 2, 4)
QUALITIES = (90, 70, 50)
NOISE_BEFORE_JPEG = 2


def scene(environment: "Environment", frames: int, seed: int) -> "Frames":
    """Return `frames` consecutive frames of a random policy."""
    import numpy as np

    from seer_runtime.policy.preprocess import to_frame

    rng, size = np.random.default_rng(seed), (SIDE, SIDE)
    shown = np.empty((frames, *size), np.uint8)
    frame = environment.reset()
    for row in shown:
        row[...] = to_frame(frame if frame.ndim == 2 else frame.transpose(1, 2, 0), size)
        step = environment.step(environment.spec.actions.sample(rng))
        frame = environment.reset() if step.terminated or step.truncated else step.frame
    return shown


def sensed(frames: "Frames", strength: float, rng: "Generator") -> "Frames":
    """Return frames with sensor noise. Shot noise is a Poisson count of electrons, of which a gray level has some."""
    import numpy as np

    electrons = MIDDLE / strength**2
    counted = rng.poisson(frames * electrons) / electrons
    return np.clip(np.rint(counted + rng.normal(0, strength, frames.shape)), 0, 255).astype(np.uint8)


def through_jpeg(frames: "Frames", quality: int) -> "Frames":
    """Return frames that were compressed to JPEG files of `quality` and decoded again."""
    import cv2
    import numpy as np

    decoded = np.empty_like(frames)
    for frame, out in zip(frames, decoded, strict=True):
        _, file = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out[...] = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    return decoded


def row_bytes(frames: "Frames") -> list[float]:
    """Return the bytes of a compressed frame with all gray levels, and with fewer."""
    from seer_runtime.policy.preprocess import GRAY_LEVELS, to_gray_levels
    from seer_runtime.replay.block_format import packed_row_bytes

    rows = frames.reshape(len(frames), -1)
    try:
        every = packed_row_bytes(rows)
        fewer = [packed_row_bytes(to_gray_levels(rows, levels)) for levels in reversed(GRAY_LEVELS)]
    except ImportError as error:
        raise FaultError(f"needs {error.name}; pip install 'seer-edge[train]'") from error
    return [every, *fewer]


def figures(frames: "Frames", seed: int) -> list[tuple[str, ...]]:
    """Return a line for each camera."""
    import numpy as np

    rng = np.random.default_rng(seed)
    cameras = {"no noise": frames}
    noisy = {strength: sensed(frames, strength, rng) for strength in STRENGTHS}
    cameras |= {f"sensor noise {strength}": shown for strength, shown in noisy.items()}
    for name, shown in (("JPEG", frames), (f"sensor noise {NOISE_BEFORE_JPEG}, JPEG", noisy[NOISE_BEFORE_JPEG])):
        cameras |= {f"{name} {quality}": through_jpeg(shown, quality) for quality in QUALITIES}
    return [(name, *(f"{size:,.0f}" for size in row_bytes(shown))) for name, shown in cameras.items()]


def main() -> int:
    """Run the command line; return the exit status."""

    def run() -> int:
        parser = Parser(prog="noisebench.py", description=(__doc__ or "").splitlines()[0])
        add_env_flags(parser)
        parser.add_argument("--blocks", type=count, default=64, metavar="N", help="blocks of frames to measure on (64)")
        flags = parser.parse_args()
        from seer_runtime.replay.block_format import BLOCK_ROWS

        environment = open_environment(flags)
        frames = scene(environment, flags.blocks * BLOCK_ROWS, flags.seed)
        environment.close()
        print(
            f"{environment.spec.name}, {len(frames):,} frames of a random policy, {SIDE**2:,} B each; bytes of a frame "
            f"in blocks of {BLOCK_ROWS}, by the number of gray levels"
        )
        print(render(("camera", "256", "64", "32", "16"), figures(frames, flags.seed)))
        return 0

    return run_tool("noisebench.py", run)


if __name__ == "__main__":
    sys.exit(main())
