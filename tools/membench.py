"""Measure bytes per transition and sampling time for several ways to store observations, on real frames.

    python tools/membench.py [--env Alien] [--budget 0.07GB] [--out DIR]    table; DIR/membench.csv and .png

Conversions run in a child process whose memory is sampled from outside. The top of this module imports only the
standard library, because further imports would be part of the child's memory.
"""

import argparse
import csv
import dataclasses
import importlib.util
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from children import mark, run_child, serve
from commandline import (
    BadInputError,
    FaultError,
    Parser,
    add_env_flags,
    count,
    mb,
    open_environment,
    progress,
    render,
    run_tool,
    size,
)

if TYPE_CHECKING:
    from stores import Store

    from seer_edge.envs import Environment
    from seer_runtime.onnx.encoder import OnnxEncoder

LZ4 = "LZ4 frames"
CONVERSION_NOTE = (
    "conversion: of a full ring that has wrapped, in a separate process, memory sampled from outside; the added "
    "memory is ONNX Runtime's and that of new columns"
)

# --- the stores ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One store's line of the table, and of the CSV under these names. None where a figure does not apply."""

    store: str
    bytes_a_transition: float
    capacity: int  # transitions within the budget
    relative_capacity: float  # relative to "frames once"
    rows: int  # rows in the store while sampling was timed
    sample_seconds: float | None  # seconds a batch; None where the budget holds no window
    conversion_seconds: float | None = None
    rss_before_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_after_bytes: int | None = None
    anon_before_bytes: int | None = None
    anon_peak_bytes: int | None = None
    anon_after_bytes: int | None = None


def check_sizes(frame_shape: tuple[int, ...], budget_bytes: int, rows: int | None) -> None:
    """Raise BadInputError where the store "frames once" could not hold one window."""
    import stores

    frame_bytes = math.prod(frame_shape)
    least = stores.N_STEP + stores.STACK
    if budget_bytes < least * frame_bytes:
        raise BadInputError(
            f"--budget {budget_bytes} B: cannot hold one window of {stores.N_STEP} steps; "
            f"use at least {least * frame_bytes}"
        )
    if rows is not None and rows < least:
        raise BadInputError(f"--rows {rows}: too few for a window of {stores.N_STEP} steps; use at least {least}")


def convert_job(env: str, budget_bytes: int, codec: str, seed: int) -> None:
    """In a child, convert a full ring that has wrapped, at the full budget."""
    import stores

    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.networks.spec import encoder_spec

    environment = make_env(env, EnvOptions(), seed=seed, training=True)
    shape = environment.spec.frame_shape
    store = stores.Rows(codec, budget_bytes, shape, seed)
    stores.fill([store], environment, store.capacity + store.capacity // 10, seed)
    encoder = stores.new_encoder(encoder_spec(stores.ENCODER, input_shape=stores.stack_shape(shape)), seed)
    latents = store.calibrated(codec, encoder)
    mark("before")
    begin = time.perf_counter()
    rows = store.convert(latents, encoder)
    mark("after", seconds=time.perf_counter() - begin, rows=rows)


def conversion_figures(env: str, budget_bytes: int, codec: str, seed: int) -> dict[str, Any]:
    """Measure one conversion in a child; return time and memory by the names of `Figures`."""
    before, after = run_child(__file__, "convert", env=env, budget_bytes=budget_bytes, codec=codec, seed=seed)
    return {
        "conversion_seconds": after.facts["seconds"],
        "rss_before_bytes": before.rss_bytes,
        "rss_peak_bytes": after.peak_bytes,
        "rss_after_bytes": after.rss_bytes,
        "anon_before_bytes": before.anon_bytes,
        "anon_peak_bytes": after.anon_peak_bytes,
        "anon_after_bytes": after.anon_bytes,
    }


def new_encoder(environment: "Environment", seed: int) -> "OnnxEncoder":
    """Build an untrained encoder for the frames. Raises BadInputError where they are too small for it."""
    import stores

    from seer_edge.networks.spec import encoder_spec

    spec = environment.spec
    try:
        shapes = encoder_spec(stores.ENCODER, input_shape=stores.stack_shape(spec.frame_shape))
    except ValueError as error:
        raise BadInputError(f"--env {spec.id}: {error}") from error
    return stores.new_encoder(shapes, seed)


def measure_stores(
    environment: "Environment", budget_bytes: int, rows: int | None, batches: int, seed: int
) -> tuple[list[Figures], list[str]]:
    """Measure all stores; return one line for each, and notes.

    Raises BadInputError for frames that are too small, and FaultError where the stores do not hold the same data.
    """
    import stores

    from seer_runtime.replay.codecs import LATENT_CODECS

    spec = environment.spec
    encoder = new_encoder(environment, seed)
    rows = budget_bytes // math.prod(spec.frame_shape) if rows is None else rows

    progress(f"playing {rows:,} steps of {spec.id}")
    common = (budget_bytes, spec.frame_shape, seed)
    frames = stores.Rows("frames once", *common)
    compressed = stores.CompressedFrames(LZ4, *common, rows=rows)
    stacks = [stores.TwoStacks("two stacks a row", *common), stores.SharedStacks("one stack a row", *common)]
    latents = {codec: stores.Rows(f"latents {codec}", *common) for codec in LATENT_CODECS}
    every: list[Store] = [*stacks, frames, compressed, *latents.values()]
    stores.fill(every, environment, rows, seed)
    for codec, store in latents.items():
        store.convert(store.calibrated(codec, encoder), encoder)

    sampled = [store for store in every if stores.can_sample(store)]
    try:
        checked = stores.check_batches(sampled, encoder, seed)
    except stores.DifferentBatchError as error:
        raise FaultError(str(error)) from error
    progress(f"sampling {batches} batches from each store")
    seconds = dict(zip((store.name for store in sampled), stores.sampling_seconds(sampled, batches), strict=True))
    conversions = {}
    for codec, store in latents.items():
        progress(f"converting a full ring to {codec} in a separate process")
        conversions[store.name] = conversion_figures(spec.id, budget_bytes, codec, seed)
    figures = [
        Figures(
            store=store.name,
            bytes_a_transition=store.bytes_a_row,
            capacity=store.capacity,
            relative_capacity=store.capacity / frames.capacity,
            rows=store.rows.rows,
            sample_seconds=seconds.get(store.name),
            **conversions.get(store.name, {}),
        )
        for store in every
    ]
    with_overhead = int(budget_bytes / (compressed.bytes_a_row + compressed.overhead_bytes))
    return figures, [
        f"{spec.id}, frames of a random policy, untrained encoder {stores.ENCODER}; "
        f"budget {budget_bytes:,} B of observations",
        f"a batch: {stores.BATCH} windows of {stores.N_STEP} steps, observation and n-th next one, "
        f"median of {batches} interleaved rounds, each store over all of its rows",
        f"{LZ4}: mean size of a block; {compressed.overhead_bytes} B of Python object a row are not counted "
        f"(counting them: {with_overhead:,} rows)",
        f"checked on {checked} windows in all sampled stores: frames and windows are equal, and latents equal the "
        "encoder's up to the codec's rounding",
        CONVERSION_NOTE,
        *(f"{store.name}: {store.rows.rows} rows are too few for a window" for store in every if store not in sampled),
    ]


# --- output -------------------------------------------------------------------------------------------------------


def store_table(figures: list[Figures]) -> str:
    """Return the figures as a text table."""
    header = ("store", "B/transition", "capacity", "x frames", "rows", "ms/batch", "convert s")
    lines = [
        (
            line.store,
            f"{line.bytes_a_transition:,.0f}",
            f"{line.capacity:,}",
            f"{line.relative_capacity:.2f}",
            f"{line.rows:,}",
            "-" if line.sample_seconds is None else f"{line.sample_seconds * 1e3:.2f}",
            "-" if line.conversion_seconds is None else f"{line.conversion_seconds:.2f}",
            *map(mb, (line.rss_before_bytes, line.rss_peak_bytes, line.rss_after_bytes)),
            *map(mb, (line.anon_before_bytes, line.anon_peak_bytes, line.anon_after_bytes)),
        )
        for line in figures
    ]
    return render((*header, "RSS before MB", "peak", "after", "anonymous before MB", "peak", "after"), lines)


def write_csv(figures: list[Figures], path: Path) -> None:
    """Write one row for each store, with the columns of `Figures`; a missing figure is an empty cell."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in dataclasses.fields(Figures)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(line) for line in figures)


def write_chart(figures: list[Figures], title: str, path: Path) -> None:
    """Plot capacity and sampling time as one bar for each store."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [line.store for line in figures]
    colors = ["tab:blue" if line.conversion_seconds is not None else "tab:gray" for line in figures]
    panels = (
        ("transitions at the budget", [float(line.capacity) for line in figures], "{:,.0f}"),
        ("sampling time of a batch, ms", [(line.sample_seconds or 0.0) * 1e3 for line in figures], "{:.2f}"),
    )
    height = 1.6 + 0.42 * len(figures)
    figure, axes = plt.subplots(1, 2, figsize=(11, height), sharey=True, layout="constrained")
    for axis, (label, values, form) in zip(axes, panels, strict=True):
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, [form.format(value) if value else "no window" for value in values], padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# --- command line -------------------------------------------------------------------------------------------------


def _flags() -> argparse.Namespace:
    parser = Parser(prog="membench.py", description=(__doc__ or "").splitlines()[0])
    add_env_flags(parser)
    parser.add_argument("--budget", type=size, default="0.07GB", metavar="SIZE", help="bytes for observations (0.07GB)")
    parser.add_argument("--rows", type=count, metavar="N", help='steps to play (as many as fill "frames once")')
    parser.add_argument("--batches", type=count, default=300, metavar="N", help="batches to time for each store (300)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for membench.csv and membench.png")
    return parser.parse_args()


def _run() -> int:
    flags = _flags()
    for module in ("lz4", *(["matplotlib"] if flags.out else [])):
        if importlib.util.find_spec(module) is None:
            raise BadInputError(f"{module} is missing; pip install 'seer-edge[bench]'")
    environment = open_environment(flags)
    check_sizes(environment.spec.frame_shape, flags.budget, flags.rows)
    try:
        if flags.out:
            flags.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"--out {flags.out}: cannot be written ({error.strerror}); name another folder") from error
    figures, notes = measure_stores(environment, flags.budget, flags.rows, flags.batches, flags.seed)
    print(store_table(figures))
    print("\n".join(notes))
    if flags.out:
        title = f"{environment.spec.name}: {flags.budget / 1e6:g} MB of observations"
        write_csv(figures, flags.out / "membench.csv")
        write_chart(figures, title, flags.out / "membench.png")
        print(f"wrote {flags.out / 'membench.csv'} and {flags.out / 'membench.png'}")
    return 0


if __name__ == "__main__":
    if not serve({"convert": convert_job}):
        sys.exit(run_tool("membench.py", _run))
