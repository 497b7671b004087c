"""Compare block lengths, differences and compressors for blocks of consecutive rows (decision 0016).

    python tools/blockbench.py RUN          rows of the newest checkpoint of a run with --store paper
    python tools/blockbench.py --env Alien  frames of a random policy

Latents of a run with --latent-codec float32 are also quantized to uint8 and uint4, with ranges from their first rows.
"""

import argparse
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
Compressor = tuple[Callable[[bytes], bytes], Callable[[bytes, memoryview], Any]]
LENGTHS = (4, 8, 16, 32)
CALIBRATION_ROWS = 1_024
PLAYED_ROWS = 4_096


def compressors() -> dict[str, Compressor]:
    """Return functions that compress, and that decompress into a buffer, by name."""
    import lz4.block
    import zstandard

    decompressor = zstandard.ZstdDecompressor()

    def unpack_lz4(packed: bytes, out: memoryview) -> None:
        out[:] = lz4.block.decompress(packed, uncompressed_size=len(out))

    def unpack_zlib(packed: bytes, out: memoryview) -> None:
        out[:] = zlib.decompress(packed, bufsize=len(out))

    def unpack_zstd(packed: bytes, out: memoryview) -> None:
        decompressor.stream_reader(packed).readinto(out)

    made: dict[str, Compressor] = {"lz4": (lambda raw: lz4.block.compress(raw, store_size=False), unpack_lz4)}
    for level in (1, 3):
        made[f"zstd {level}"] = (zstandard.ZstdCompressor(level=level, write_checksum=False).compress, unpack_zstd)
    made["zlib 1"] = (lambda raw: zlib.compress(raw, 1), unpack_zlib)
    return made


def plain(block: Rows) -> Rows:
    """Return the rows as they are."""
    return block


def xor(block: Rows) -> Rows:
    """Return the first row, and each further row XORed with the one before it."""
    difference = block.copy()
    difference[1:] ^= block[:-1]
    return difference


def undo_xor(block: Rows) -> None:
    """Restore the rows of `xor` in place."""
    for row in range(1, len(block)):
        np.bitwise_xor(block[row], block[row - 1], out=block[row])


def measure(rows: Rows, blocks: int) -> list[tuple[str, ...]]:
    """Return a line of the table for each combination, from `blocks` evenly spaced blocks."""
    lines = []
    for length in LENGTHS:
        found = rows[: len(rows) // length * length].reshape(-1, length, rows.shape[1])
        chosen = found[np.linspace(0, len(found) - 1, min(blocks, len(found))).astype(int)]
        out = np.empty_like(chosen[0])
        for name, (compress, unpack) in compressors().items():
            for difference in (plain, xor):
                packs, unpacks, sizes = [], [], []
                for block in chosen:
                    begin = time.perf_counter()
                    packed = compress(difference(block).tobytes())
                    middle = time.perf_counter()
                    unpack(packed, out.reshape(-1).data)
                    if difference is xor:
                        undo_xor(out)
                    unpacks.append(time.perf_counter() - middle)
                    packs.append(middle - begin)
                    sizes.append(min(len(packed), block.nbytes))
                    if not np.array_equal(out, block):
                        raise AssertionError(f"{name} {difference.__name__}: a block came back changed")
                times = [f"{statistics.median(seconds) * 1e6:.0f}" for seconds in (packs, unpacks)]
                size = statistics.fmean(sizes) / length
                lines.append((str(length), name, difference.__name__, f"{size:.0f}", *times))
    return lines


def rows_of_run(run: Path) -> dict[str, Rows]:
    """Return the rows of the newest checkpoint by name, oldest first. Raises BadInputError."""
    from seer_edge.runs import checkpoint
    from seer_edge.runs.run_folder import open_run
    from seer_runtime import durable
    from seer_runtime.replay.storage import ROWS, Layout

    saved = checkpoint.newest(open_run(run, "the --run-dir of a run with --store paper").checkpoints)
    values = saved.state["replay"]
    if saved.config.compact:
        raise BadInputError(f"{run}: its rows are compressed already; give a run with --store paper")
    layout = Layout(**values["layout"])
    stored = durable.read_tensors(saved.path / checkpoint.REPLAY, (ROWS,))[ROWS]
    ids = np.arange(layout.appended - layout.rows, layout.appended)
    rows = stored[[layout.slot(int(row_id)) for row_id in ids]]
    return {values["codec"]: rows} | (quantized(rows, saved) if values["codec"] == "float32" else {})


def quantized(rows: Rows, saved: Any) -> dict[str, Rows]:
    """Return float32 latents as rows of the quantized codecs, with ranges from the first rows."""
    from seer_runtime.replay.codecs import latent_codec

    augmentations = saved.config.augmentations
    latents = rows.view(np.float32).reshape(len(rows), augmentations, 1, -1)
    made = {}
    for name in ("uint8", "uint4"):
        codec = latent_codec(name, latents.shape[2:], augmentations)
        codec.calibrate([latents[:CALIBRATION_ROWS, 0]])
        made[name] = np.empty((len(latents), codec.row_bytes), np.uint8)
        codec.encode(latents, made[name])
    return made


def played_rows(flags: argparse.Namespace) -> dict[str, Rows]:
    """Return frames of a random policy. Raises BadInputError."""
    import itertools

    import stores

    environment = open_environment(flags)
    progress(f"playing {PLAYED_ROWS:,} steps of {environment.spec.id}")
    steps = itertools.islice(stores.play(environment, flags.seed), PLAYED_ROWS)
    return {"frames": np.stack([step.frame.reshape(-1) for step in steps])}


def main() -> int:
    """Run the command line; return the exit status."""

    def run() -> int:
        parser = Parser(prog="blockbench.py", description=(__doc__ or "").splitlines()[0])
        chosen = add_env_flags(parser)
        chosen.add_argument(
            "run", type=Path, nargs="?", metavar="RUN", help="folder of a run; without it, frames of --env"
        )
        parser.add_argument("--blocks", type=count, default=150, metavar="N", help="blocks of each length (150)")
        flags = parser.parse_args()
        require("bench,train", "lz4", "zstandard")
        for name, rows in (played_rows(flags) if flags.run is None else rows_of_run(flags.run)).items():
            print(f"{name}, {len(rows):,} rows of {rows.shape[1]:,} B")
            header = ("rows a block", "compressor", "difference", "B/row", "pack us", "unpack us")
            print(render(header, measure(rows, flags.blocks)))
        return 0

    return run_tool("blockbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
