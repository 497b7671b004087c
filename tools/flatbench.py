"""Time batches from compressed rows by the number of rows held, and the conversion apart from the encoder's time.

    python tools/flatbench.py --policy BUNDLE    steps of a trained policy, latents of its encoder
    python tools/flatbench.py --env Alien        steps of a random policy, latents of an untrained encoder

The steps that were played are appended again and again until the store holds enough rows. All times are processor time
of this process. The rounds of a table are interleaved, so all lines see the same disturbances.
"""

import argparse
import itertools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import (
    BadInputError,
    Parser,
    add_env_flags,
    count,
    open_environment,
    progress,
    render,
    require,
    run_tool,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seer_edge.envs import Environment
    from seer_runtime.policy.policy import Policy
    from seer_runtime.replay.blocks import BlockRows
    from seer_runtime.replay.codecs import Codec

HELD = (10_000, 50_000, 100_000, 200_000, 500_000)
LATENTS = ("uint8", "uint4")
BATCH, STACK, N_STEP = 32, 4, 20
CALIBRATION_ROWS = 1_024
WARM_UP_BATCHES = 3


@dataclass(frozen=True)
class Steps:
    """Consecutive steps: frames `[N, H, W]` and the latents `[N, K, L]` of their stacks."""

    frames: "NDArray[np.uint8]"
    latents: "NDArray[np.float32]"


def played(environment: "Environment", policy: "Policy | None", steps: int, seed: int) -> Steps:
    """Play `steps` steps. Raises BadInputError for frames that are too small for an encoder."""
    import membench
    import numpy as np
    import stores

    encoder = membench.new_encoder(environment, seed) if policy is None else policy.perception.encoder
    frames, latents = [], []
    for row in itertools.islice(stores.play(environment, seed, policy), steps):
        frames.append(row.frame.copy())
        latents.append(encoder(row.stack[None]).copy())
    return Steps(np.stack(frames), np.concatenate(latents))


def new_storage(codec: "Codec", rows: int, stack: int) -> "BlockRows":
    """Return a storage with room for `rows` rows, even if they do not compress."""
    from seer_runtime.replay.arena import Arena
    from seer_runtime.replay.block_format import BLOCK_ROWS
    from seer_runtime.replay.block_index import BlockIndex
    from seer_runtime.replay.blocks import BlockRows
    from seer_runtime.system.ledger import Ledger

    ledger = Ledger({})
    # Memory that is not written is not used.
    arena = Arena((rows + 2 * BLOCK_ROWS) * codec.row_bytes, ledger)
    return BlockRows(arena, codec, BlockIndex(rows, ledger), stack=stack, ledger=ledger)


def calibrated(name: str, latents: "NDArray[np.float32]") -> "Codec":
    """Return the codec `name` with ranges from the first latents."""
    from seer_runtime.replay.codecs import latent_codec

    codec = latent_codec(name, latents.shape[1:])
    codec.calibrate([latents[:CALIBRATION_ROWS]])
    return codec


def filled(codec: "Codec", observations: "NDArray[Any]", rows: int, stack: int) -> "BlockRows":
    """Return a storage that holds `rows` rows of the `observations`, appended again and again."""
    storage = new_storage(codec, rows, stack)
    for row, observation in enumerate(itertools.islice(itertools.cycle(observations), rows)):
        storage.write(row, observation)
    return storage


def batch_seconds(storages: "dict[int, BlockRows]", batches: int) -> dict[int, float]:
    """Return the median seconds to decode both observations of a batch, by the number of rows held."""
    import numpy as np

    rng = np.random.default_rng(0)
    seconds: dict[int, list[float]] = {rows: [] for rows in storages}
    for _ in range(WARM_UP_BATCHES + batches):
        for rows, storage in storages.items():
            stack = STACK if storage.codec.name == "identity" else 1
            starts = rng.integers(STACK, rows - N_STEP, BATCH)
            out = np.empty((BATCH, stack, *storage.codec.view_shape), storage.codec.dtype)
            views, back = storage.codec.plain(BATCH), np.arange(stack - 1, -1, -1)
            begin = time.process_time()
            for ids in (starts, starts + N_STEP):
                storage.gather(ids[:, None] - back, views, out)
            seconds[rows].append(time.process_time() - begin)
    return {rows: statistics.median(times[WARM_UP_BATCHES:]) for rows, times in seconds.items()}


def conversion_rate(steps: Steps, codec: "Codec", rows: int) -> float:
    """Return how many rows a second a conversion of `rows` rows handles. The latents are given, in order."""
    import numpy as np

    from seer_runtime.replay.block_format import BLOCK_ROWS
    from seer_runtime.replay.codecs import frame_codec
    from seer_runtime.replay.convert_blocks import BlockConversion
    from seer_runtime.replay.store import RowStore

    frames = frame_codec(steps.frames.shape[1:])
    storage = new_storage(frames, rows, STACK)
    store = RowStore(storage, stack=STACK, ledger=storage._ledger)
    for index, frame in enumerate(itertools.islice(itertools.cycle(steps.frames), rows)):
        store.append(frame, 0, 0.0, terminated=index % len(steps.frames) == len(steps.frames) - 1, truncated=False)
    blocks = len(steps.latents) // BLOCK_ROWS
    found = itertools.cycle(steps.latents[: blocks * BLOCK_ROWS].reshape(blocks, BLOCK_ROWS, *steps.latents.shape[1:]))
    conversion = BlockConversion(store, codec, np.random.default_rng(0), storage._ledger)
    begin = time.process_time()
    kept = conversion.run(lambda stacks: next(found)[: len(stacks)])
    return kept / (time.process_time() - begin)


def report(steps: Steps, held: list[int], batches: int, converted: int) -> None:
    """Print the time of a batch by the rows held for each kind of rows, and the rate of conversions."""
    from seer_runtime.replay.codecs import frame_codec

    kinds: dict[str, tuple[Codec, NDArray[Any], int]] = {
        "frames": (frame_codec(steps.frames.shape[1:]), steps.frames, STACK)
    }
    for name in LATENTS:
        kinds[name] = (calibrated(name, steps.latents), steps.latents[:, None], 1)
    lines = []
    for kind, (codec, observations, stack) in kinds.items():
        progress(f"appending up to {max(held):,} rows of {kind}")
        storages = {rows: filled(codec, observations, rows, stack) for rows in held}
        seconds = batch_seconds(storages, batches)
        row_bytes = storages[max(held)].bytes_a_row() or codec.row_bytes
        times = [f"{seconds[rows] * 1e3:.2f}" for rows in held]
        spread = max(seconds.values()) / min(seconds.values()) - 1
        lines.append((kind, f"{row_bytes:,.0f}", *times, f"{spread:.0%}"))
    print(f"ms to decode a batch: {BATCH} windows of {N_STEP} steps, both observations; by the rows held")
    print(render(("compact", "B/row", *(f"{rows:,}" for rows in held), "spread"), lines))
    for name in LATENTS:
        progress(f"converting {converted:,} frames to {name}")
        rate = conversion_rate(steps, calibrated(name, steps.latents), converted)
        print(f"conversion to {name}: {rate:,.0f} rows a second on one core, without the encoder")


def main() -> int:
    """Run the command line; return the exit status."""

    def run() -> int:
        parser = Parser(prog="flatbench.py", description=(__doc__ or "").splitlines()[0])
        chosen = add_env_flags(parser)
        chosen.add_argument("--policy", type=Path, metavar="BUNDLE", help="bundle whose policy plays its environment")
        parser.add_argument("--steps", type=count, default=6_400, metavar="N", help="steps to play (6400)")
        parser.add_argument("--rows", type=count, nargs="+", default=list(HELD), metavar="N", help="rows held")
        parser.add_argument("--batches", type=count, default=100, metavar="N", help="batches to time (100)")
        parser.add_argument("--converted", type=count, default=20_000, metavar="N", help="rows to convert (20000)")
        flags: argparse.Namespace = parser.parse_args()
        require("train", "zstandard")
        if min(flags.rows) <= STACK + N_STEP:
            raise BadInputError(f"--rows {min(flags.rows)}: too few for a window; use at least {STACK + N_STEP + 1}")
        if flags.steps < 8:
            raise BadInputError(f"--steps {flags.steps}: fewer than a block; use at least 8")
        if flags.policy is None:
            environment, policy = open_environment(flags), None
        else:
            import membench

            environment, policy = membench.open_policy(flags.policy, flags.seed)
        progress(f"playing {flags.steps:,} steps of {environment.spec.id}")
        steps = played(environment, policy, flags.steps, flags.seed)
        print(f"{environment.spec.id}, {flags.steps:,} steps of a {'random' if policy is None else 'trained'} policy")
        report(steps, sorted(flags.rows), flags.batches, flags.converted)
        return 0

    return run_tool("flatbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
