"""Measure bytes per transition and sampling time for several ways to store observations, on real frames.

    python tools/membench.py [--env Alien] [--budget 0.07GB] [--out DIR]    table; DIR/membench.csv and .png
    python tools/membench.py --policy BUNDLE                                frames and latents of a trained policy

Conversions run in a child process whose memory is sampled from outside. The top of this module imports only the
standard library, because further imports would be part of the child's memory.
"""

import argparse
import csv
import dataclasses
import math
import statistics
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
    require,
    run_tool,
    size,
)

if TYPE_CHECKING:
    from stores import Rows, Store

    from seer_edge.envs import Environment
    from seer_runtime.onnx.encoder import OnnxEncoder
    from seer_runtime.policy.policy import Policy

FRAMES, LZ4 = "frames once", "LZ4 frames"
CONVERSION_NOTE = (
    "conversion: of a full ring that has wrapped, with compact of as many rows, in a separate process, memory sampled "
    "from outside; the added memory is ONNX Runtime's and that of new columns"
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
    append_seconds: float  # of a frame, on average
    append_seconds_worst: float
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


def convert_job(env: str, budget_bytes: int, codec: str, seed: int, compact: bool) -> None:
    """In a child, convert a ring of frames at the full budget. With rows of a fixed size it is full and has wrapped."""
    import store_batches
    import stores

    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.networks.spec import encoder_spec

    environment = make_env(env, EnvOptions(), seed=seed, training=True)
    shape = environment.spec.frame_shape
    rows = budget_bytes // math.prod(shape) * 11 // 10
    store = stores.Rows(codec, budget_bytes, shape, seed, most_rows=rows if compact else None)
    store_batches.fill([store], environment, rows, seed)
    encoder = stores.new_encoder(encoder_spec(stores.ENCODER, input_shape=stores.stack_shape(shape)), seed)
    latents = store.calibrated(codec, encoder)
    mark("before")
    begin = time.perf_counter()
    rows = store.convert(latents, encoder)
    mark("after", seconds=time.perf_counter() - begin, rows=rows)


def conversion_figures(env: str, budget_bytes: int, store: "Rows", seed: int) -> dict[str, Any]:
    """Measure one conversion in a child; return time and memory by the names of `Figures`."""
    job = {"budget_bytes": budget_bytes, "codec": store.rows.codec.name, "seed": seed, "compact": store.compact}
    before, after = run_child(__file__, "convert", env=env, **job)
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


def filled_stores(
    environment: "Environment", budget_bytes: int, rows: int, seed: int, encoder: "OnnxEncoder", policy: "Policy | None"
) -> list["Store"]:
    """Return every kind of store with the same `rows` steps, those of latents converted. The first holds stacks."""
    import store_batches
    import stores
    from peers.compressed_replays import peer_stores

    from seer_runtime.replay.codecs import LATENT_CODECS

    common = (budget_bytes, environment.spec.frame_shape, seed)
    latents: dict[Store, str] = {}
    for codec in LATENT_CODECS:
        latents[stores.Rows(f"latents {codec}", *common)] = codec
        latents[stores.Rows(f"compact {codec}", *common, most_rows=rows)] = codec
    every: list[Store] = [
        stores.TwoStacks("two stacks a row", *common),
        stores.SharedStacks("one stack a row", *common),
        stores.Rows(FRAMES, *common),
        stores.CompressedFrames(LZ4, *common, rows=rows),
        *peer_stores(*common, rows=rows),
        stores.Rows("compact frames", *common, most_rows=rows),
        *latents,
    ]
    store_batches.fill(every, environment, rows, seed, policy)
    for store, codec in latents.items():
        assert isinstance(store, stores.Rows)
        store.convert(store.calibrated(codec, encoder), encoder)
    return every


def open_policy(path: Path, seed: int) -> tuple["Environment", "Policy"]:
    """Return the environment of the bundle at `path`, and its policy. Raises BadInputError."""
    import stores

    from seer_edge import errors
    from seer_edge.deploy.act import Origin, opened
    from seer_edge.envs import make_env
    from seer_edge.envs.translate_errors import translate_errors
    from seer_runtime.policy.policy import Policy

    try:
        with opened(path) as bundle:
            origin, policy = Origin.of(bundle), Policy.of(bundle)
        with translate_errors(origin.env, origin.options):
            environment = make_env(origin.env, origin.options, seed=seed, training=True)
    except errors.BadInputError as error:
        raise BadInputError(f"--policy {error}") from error
    if (policy.spec.stack, policy.spec.crop_shape) != (stores.STACK, policy.spec.frame_shape[-2:]):
        raise BadInputError(f"--policy {path}: needs stacks of {stores.STACK} whole frames; use a bundle of Atari")
    return environment, policy


def measure_stores(
    environment: "Environment",
    budget_bytes: int,
    rows: int | None,
    batches: int,
    seed: int,
    policy: "Policy | None" = None,
    *,
    convert: bool = True,
) -> tuple[list[Figures], list[str]]:
    """Measure all stores, and conversions in child processes if `convert`; return one line for each, and notes.

    Raises BadInputError for frames that are too small, and FaultError where the stores do not hold the same data.
    """
    import store_batches
    import stores

    spec = environment.spec
    encoder = new_encoder(environment, seed) if policy is None else policy.perception.encoder
    rows = budget_bytes // math.prod(spec.frame_shape) if rows is None else rows

    progress(f"playing {rows:,} steps of {spec.id}")
    every = filled_stores(environment, budget_bytes, rows, seed, encoder, policy)
    sampled = [store for store in every if store_batches.can_sample(store)]
    try:
        checked = store_batches.check_batches(sampled, encoder, seed)
    except store_batches.DifferentBatchError as error:
        raise FaultError(str(error)) from error
    progress(f"sampling {batches} batches from each store")
    seconds = dict(
        zip((store.name for store in sampled), store_batches.sampling_seconds(sampled, batches), strict=True)
    )
    conversions = {}
    for store in every:
        if convert and isinstance(store, stores.Rows) and store.rows.stack == 1:
            progress(f"converting frames for {store.name} in a separate process")
            conversions[store.name] = conversion_figures(spec.id, budget_bytes, store, seed)
    frames = next(store for store in every if store.name == FRAMES)
    figures = [
        Figures(
            store=store.name,
            bytes_a_transition=store.bytes_a_row,
            capacity=store.capacity,
            relative_capacity=store.capacity / frames.capacity,
            rows=store.rows.rows,
            sample_seconds=seconds.get(store.name),
            append_seconds=statistics.fmean(store.append_seconds),
            append_seconds_worst=max(store.append_seconds),
            **conversions.get(store.name, {}),
        )
        for store in every
    ]
    return figures, _notes(every, sampled, spec.id, budget_bytes, batches, checked, trained=policy is not None)


def _notes(
    every: list["Store"],
    sampled: list["Store"],
    env: str,
    budget_bytes: int,
    batches: int,
    checked: int,
    *,
    trained: bool,
) -> list[str]:
    """Return the lines below the table, which say what was measured."""
    import stores

    player = "a trained policy and its encoder" if trained else f"a random policy, untrained encoder {stores.ENCODER}"
    compressed = next(store for store in every if isinstance(store, stores.CompressedFrames))
    with_overhead = int(budget_bytes / (compressed.bytes_a_row + compressed.overhead_bytes))
    return [
        f"{env}, frames of {player}; budget {budget_bytes:,} B of observations",
        f"a batch: {stores.BATCH} windows of {stores.N_STEP} steps, observation and n-th next one, "
        f"median of {batches} interleaved rounds, each store over all of its rows",
        "an append: of a frame, mean and worst; stores of latents hold frames until the conversion",
        f"{LZ4}: mean size of a block; {compressed.overhead_bytes} B of Python object a row are not counted "
        f"(counting them: {with_overhead:,} rows)",
        "compact: capacity for rows of the mean size of those in the store",
        f"checked on {checked} windows in all sampled stores: frames and windows are equal, and latents equal the "
        "encoder's up to the codec's rounding",
        CONVERSION_NOTE,
        *(f"{store.name}: {store.rows.rows} rows are too few for a window" for store in every if store not in sampled),
    ]


# --- output -------------------------------------------------------------------------------------------------------


def store_table(figures: list[Figures]) -> str:
    """Return the figures as a text table."""
    header = (
        "store", "B/transition", "capacity", "x frames", "rows", "ms/batch", "append us", "worst", "convert s"
    )  # fmt: skip
    lines = [
        (
            line.store,
            f"{line.bytes_a_transition:,.0f}",
            f"{line.capacity:,}",
            f"{line.relative_capacity:.2f}",
            f"{line.rows:,}",
            "-" if line.sample_seconds is None else f"{line.sample_seconds * 1e3:.2f}",
            f"{line.append_seconds * 1e6:.0f}",
            f"{line.append_seconds_worst * 1e6:.0f}",
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
    chosen = add_env_flags(parser)
    parser.add_argument("--budget", type=size, default="0.07GB", metavar="SIZE", help="bytes for observations (0.07GB)")
    parser.add_argument("--rows", type=count, metavar="N", help='steps to play (as many as fill "frames once")')
    parser.add_argument("--batches", type=count, default=300, metavar="N", help="batches to time for each store (300)")
    chosen.add_argument("--policy", type=Path, metavar="BUNDLE", help="bundle whose policy plays its environment")
    parser.add_argument(
        "--no-conversions", dest="convert", action="store_false", help="do not time conversions, which takes minutes"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for membench.csv and membench.png")
    return parser.parse_args()


def _run() -> int:
    flags = _flags()
    require("bench,train", "lz4", "zstandard", *(["matplotlib"] if flags.out else []))
    if flags.policy is None:
        environment, policy = open_environment(flags), None
    else:
        environment, policy = open_policy(flags.policy, flags.seed)
    check_sizes(environment.spec.frame_shape, flags.budget, flags.rows)
    try:
        if flags.out:
            flags.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"--out {flags.out}: cannot be written ({error.strerror}); name another folder") from error
    figures, notes = measure_stores(
        environment, flags.budget, flags.rows, flags.batches, flags.seed, policy, convert=flags.convert
    )
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
