"""What a transition costs in each way of keeping observations, on frames of the real emulator.

    python tools/membench.py [--env Alien] [--budget 0.07GB] [--out DIR]    table; DIR/membench.csv and .png
    python tools/membench.py --process                                      RSS of `seer-edge train` by cause
    python tools/membench.py --rss-slope                                    bytes of RSS a byte of budget

What happens to RSS is measured in child processes and sampled from outside. Nothing beyond the standard library is
imported at the top, because a child measures what each import costs.
"""

import argparse
import csv
import dataclasses
import importlib
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from stores import Store

    from seer_edge.envs import Environment

EXIT_FAULT, EXIT_BAD_INPUT = 1, 2
SAMPLE_EVERY_SECONDS = 1e-3
SLOPE_BUDGETS_BYTES = (20_000_000, 120_000_000)
LZ4 = "LZ4 frames"


class BadInputError(Exception):
    """One line that names the flag, the value and the mend."""


class FaultError(Exception):
    """The stores do not agree, so their figures mean nothing."""


# --- children, seen from outside ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """Where a child stood still: its RSS there, and the largest since its last mark."""

    name: str
    rss_bytes: int
    peak_bytes: int
    facts: dict[str, Any]


def run_child(job: str, **settings: Any) -> Iterator[Mark]:
    """Run one of `JOBS` in a process of its own and yield its marks. Raises RuntimeError where the child fails."""
    import psutil

    command = [sys.executable, __file__, "--child", json.dumps({"job": job, **settings})]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    watched = psutil.Process(child.pid)
    peak_bytes = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak_bytes
        while not done.is_set():
            try:
                peak_bytes = max(peak_bytes, watched.memory_info().rss)
            except psutil.Error:
                return
            time.sleep(SAMPLE_EVERY_SECONDS)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        for line in child.stdout:
            if not line.startswith("{"):
                continue
            facts = json.loads(line)
            rss_bytes = watched.memory_info().rss
            yield Mark(facts.pop("mark"), rss_bytes, max(peak_bytes, rss_bytes), facts)
            peak_bytes = 0
            child.stdin.write("\n")
            child.stdin.flush()
    finally:
        done.set()
        sampler.join()
        child.stdin.close()
        child.stdout.close()
        if child.wait() != 0:
            raise RuntimeError(f"the child for {job} ended with status {child.returncode}")


def mark(name: str, **facts: Any) -> None:
    """Stand still until the parent has looked."""
    print(json.dumps({"mark": name, **facts}), flush=True)
    sys.stdin.readline()


def convert_job(env: str, budget_bytes: int, codec: str, seed: int) -> None:
    """Child: convert a full ring that has wrapped, at the full budget."""
    import stores

    from seer_edge.envs import make_env
    from seer_edge.networks.spec import encoder_spec

    environment = make_env(env, protocol="paper", seed=seed, training=True)
    shape = environment.spec.frame_shape
    store = stores.Rows(codec, budget_bytes, shape, seed)
    stores.fill([store], environment, store.capacity + store.capacity // 10, seed)
    encoder = stores.new_encoder(encoder_spec(stores.ENCODER, stack=stores.STACK, frame_shape=shape), seed)
    latents = store.calibrated(codec, encoder)
    mark("before")
    begin = time.perf_counter()
    rows = store.replay.convert(latents, encoder)
    mark("after", seconds=time.perf_counter() - begin, rows=rows)


def train_job(env: str, budget_bytes: int, seed: int) -> None:
    """Child: all that `seer-edge train` does to memory, with as few updates as show it."""
    mark("interpreter")
    for module in ("numpy", "onnxruntime", "torch"):
        importlib.import_module(module)
        mark(module)
    from seer_edge.envs import make_env

    environment = make_env(env, protocol="paper", seed=seed, training=True)
    environment.reset()
    spec = environment.spec
    environment.close()
    mark("emulator")

    from seer_edge import train
    from seer_edge.config import TrainConfig, build_config
    from seer_edge.freeze import freeze
    from seer_edge.loop import build_session
    from seer_edge.plan import make_plan

    frame_bytes = math.prod(spec.frame_shape)
    config = build_config(
        env=spec.id, env_name=spec.name, frame_bytes=frame_bytes, mem_budget_bytes=budget_bytes, seed=seed
    )

    def learning_from(config: TrainConfig, step: int) -> TrainConfig:
        return dataclasses.replace(config, rainbow=dataclasses.replace(config.rainbow, learning_starts=step))

    config = dataclasses.replace(learning_from(config, 0), eval_episodes=1)
    plan = make_plan(config, spec)
    train.prepare_compute(config)
    session = build_session(plan)
    mark("agent built")

    def steps(count: int, *, learn: bool) -> None:
        session.config = config if learn else learning_from(config, sys.maxsize)
        for _ in range(count):
            session.step()

    store, settings = session.replay.store, config.rainbow
    steps(settings.batch_size + settings.n_step + settings.stack, learn=False)
    steps(1, learn=True)
    mark("first pixel update")
    steps(store.capacity - store.rows, learn=False)
    steps(5, learn=True)
    mark("arena filled")
    with tempfile.TemporaryDirectory() as folder:
        freeze(session, Path(folder) / "encoder.onnx", Path(folder) / "checkpoints")
    mark("conversion")
    steps(1, learn=True)
    mark("first latent update")
    steps(20, learn=True)
    train.evaluate_session(plan, session, lambda: False)
    lines = ("arena", "columns", "priorities", "workspace", "model", "optimizer")
    mark("evaluation", **{name: getattr(plan, f"{name}_bytes") for name in lines})


JOBS: dict[str, Callable[..., None]] = {"convert": convert_job, "train": train_job}


# --- the stores ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One store's line of the table, and of the CSV under these names; None where a store has no such thing."""

    store: str
    bytes_a_transition: float
    capacity: int  # transitions at the budget
    relative_capacity: float  # to frames once
    rows: int  # held while sampling was timed
    sample_seconds: float | None  # a batch; None: the budget holds no window
    conversion_seconds: float | None = None
    rss_before_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_after_bytes: int | None = None


def check_sizes(frame_shape: tuple[int, ...], budget_bytes: int, rows: int | None) -> None:
    """Raise BadInputError where frames once could not hold one window."""
    import stores

    frame_bytes = math.prod(frame_shape)
    least = stores.N_STEP + stores.STACK
    if budget_bytes < least * frame_bytes:
        raise BadInputError(
            f"--budget {budget_bytes} B: cannot hold one window of {stores.N_STEP} steps; "
            f"give at least {least * frame_bytes}"
        )
    if rows is not None and rows < least:
        raise BadInputError(f"--rows {rows}: holds no window of {stores.N_STEP} steps; give at least {least}")


def conversion_figures(env: str, budget_bytes: int, codec: str, seed: int) -> dict[str, Any]:
    """Time and RSS of one conversion, by the names of `Figures`."""
    before, after = run_child("convert", env=env, budget_bytes=budget_bytes, codec=codec, seed=seed)
    return {
        "conversion_seconds": after.facts["seconds"],
        "rss_before_bytes": before.rss_bytes,
        "rss_peak_bytes": after.peak_bytes,
        "rss_after_bytes": after.rss_bytes,
    }


def measure_stores(
    environment: "Environment", budget_bytes: int, rows: int | None, batches: int, seed: int
) -> tuple[list[Figures], list[str]]:
    """A line a store, and notes. Raises BadInputError, and FaultError where the stores do not hold the same."""
    import stores

    from seer_edge.networks.spec import encoder_spec
    from seer_runtime.codecs import LATENT_ELEMENT_BYTES

    spec = environment.spec
    try:
        encoder = stores.new_encoder(
            encoder_spec(stores.ENCODER, stack=stores.STACK, frame_shape=spec.frame_shape), seed
        )
    except ValueError as error:
        raise BadInputError(f"--env {spec.id}: {error}") from error
    rows = budget_bytes // math.prod(spec.frame_shape) if rows is None else rows

    say(f"playing {rows:,} steps of {spec.id}")
    common = (budget_bytes, spec.frame_shape, seed)
    frames = stores.Rows("frames once", *common)
    compressed = stores.CompressedFrames(LZ4, *common, rows=rows)
    pixels = [
        stores.TwoStacks("two stacks a row", *common),
        stores.SharedStacks("one stack a row", *common),
        frames,
        compressed,
    ]
    latents = {codec: stores.Rows(f"latents {codec}", *common) for codec in LATENT_ELEMENT_BYTES}
    every: list[Store] = [*pixels, *latents.values()]
    stores.fill(every, environment, rows, seed)
    for codec, store in latents.items():
        store.replay.convert(store.calibrated(codec, encoder), encoder)

    sampled = [store for store in every if stores.can_sample(store)]
    try:
        checked = stores.check_batches(sampled, encoder, seed)
    except stores.DifferentBatchError as error:
        raise FaultError(str(error)) from error
    say(f"sampling {batches} batches a store")
    seconds = dict(zip((store.name for store in sampled), stores.sampling_seconds(sampled, batches), strict=True))
    conversions = {}
    for codec, store in latents.items():
        say(f"converting a full ring to {codec} in a process of its own")
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
    notes = [
        f"{spec.id}, frames of a random policy, encoder {stores.ENCODER} as initialised; "
        f"budget {budget_bytes:,} B of observations",
        f"a batch: {stores.BATCH} windows of {stores.N_STEP} steps, observation and n-th next one, "
        f"median of {batches} interleaved rounds, each store over the rows that it holds",
        f"{LZ4}: mean block; {compressed.overhead_bytes} B of Python object a row are not counted "
        f"(with them {with_overhead:,} rows)",
        f"checked on {checked} windows that all sampled stores hold: frames and windows equal, latents the encoder's "
        "up to the codec's rounding",
        "conversion: of a full ring that has wrapped, in a process of its own, RSS sampled from outside; what it "
        "adds is ONNX Runtime's working memory and new columns",
        *(f"{store.name}: {store.rows.rows} rows hold no window" for store in every if store not in sampled),
    ]
    return figures, notes


# --- what is shown ------------------------------------------------------------------------------------------------


def render(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A table, its first column to the left."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in (header, *lines))
    )


def _mb(size_bytes: float | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def store_table(figures: list[Figures]) -> str:
    """The figures as people read them."""
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
            *map(_mb, (line.rss_before_bytes, line.rss_peak_bytes, line.rss_after_bytes)),
        )
        for line in figures
    ]
    return render((*header, "RSS before MB", "peak", "after"), lines)


def write_csv(figures: list[Figures], path: Path) -> None:
    """One row a store, columns as in `Figures`, empty where there is nothing."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in dataclasses.fields(Figures)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(line) for line in figures)


def write_chart(figures: list[Figures], title: str, path: Path) -> None:
    """Capacity and sampling time, a bar a store."""
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


def show_process(env: str, budget_bytes: int, seed: int) -> None:
    """RSS of a training process by cause, and what the plan does not name."""
    marks = list(run_child("train", env=env, budget_bytes=budget_bytes, seed=seed))
    before = [0, *(mark.rss_bytes for mark in marks)]
    lines = [
        (mark.name, _mb(mark.rss_bytes), f"{(mark.rss_bytes - last) / 1e6:+.1f}", _mb(mark.peak_bytes))
        for mark, last in zip(marks, before, strict=False)
    ]
    peak_bytes = max(mark.peak_bytes for mark in marks)
    planned = marks[-1].facts
    rest = peak_bytes - sum(planned.values())
    print(f"{env}, budget {budget_bytes:,} B; RSS in MB, sampled from outside")
    print(render(("after", "RSS", "added", "peak on the way"), lines))
    print(f"peak {peak_bytes:,} B")
    print("plan: " + ", ".join(f"{name} {size_bytes:,}" for name, size_bytes in planned.items()))
    print(f"everything else: {rest:,} B")


def show_slope(env: str, seed: int) -> None:
    """Bytes of peak RSS a byte of budget, from two processes that fill their rings."""
    peaks = []
    for budget_bytes in SLOPE_BUDGETS_BYTES:
        say(f"filling {budget_bytes:,} B")
        marks = run_child("train", env=env, budget_bytes=budget_bytes, seed=seed)
        peaks.append(max(mark.peak_bytes for mark in marks))
        print(f"budget {budget_bytes:>11,} B: peak RSS {peaks[-1]:,} B")
    low, high = SLOPE_BUDGETS_BYTES
    print(f"bytes of RSS a byte of budget: {(peaks[1] - peaks[0]) / (high - low):.3f} (target 1.0 within 10 %)")


# --- command line -------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(f"{text} ...", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInputError(message.removeprefix("argument "))


def _size(text: str) -> int:
    from seer_runtime.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {2**32 - 1}")
    return int(text)


def _seed(text: str) -> int:
    return _count(text, 0)


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="membench.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--env", default="Alien", help="game, or module:EnvId (Alien)")
    parser.add_argument("--budget", type=_size, default="0.07GB", metavar="SIZE", help="of observations (0.07GB)")
    parser.add_argument("--rows", type=_count, metavar="N", help="steps to play (as many as fill frames once)")
    parser.add_argument("--batches", type=_count, default=300, metavar="N", help="batches timed a store (300)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of every random stream (0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where membench.csv and membench.png go")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--process", action="store_true", help="instead: RSS of seer-edge train by cause")
    low, high = (f"{size // 10**6} MB" for size in SLOPE_BUDGETS_BYTES)
    other.add_argument("--rss-slope", action="store_true", help=f"instead: RSS at budgets of {low} and {high}")
    return parser.parse_args(arguments)


def _run(flags: argparse.Namespace) -> None:
    from seer_edge.envs import EnvError, make_env

    for module in ("lz4", *(["matplotlib"] if flags.out else [])):
        if importlib.util.find_spec(module) is None:
            raise BadInputError(f"{module} is missing; pip install 'seer-edge[bench]'")
    try:
        environment = make_env(flags.env, protocol="paper", seed=flags.seed, training=True)
    except EnvError as error:
        raise BadInputError(f"--env {flags.env}: {error}") from error
    if flags.process:
        return show_process(environment.spec.id, flags.budget, flags.seed)
    if flags.rss_slope:
        return show_slope(environment.spec.id, flags.seed)
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
    return None


def main() -> int:
    """Command line; a first argument of --child makes this process one of `JOBS`."""
    if sys.argv[1:2] == ["--child"]:
        settings = json.loads(sys.argv[2])
        JOBS[settings.pop("job")](**settings)
        return 0
    try:
        _run(_flags(sys.argv[1:]))
    except BadInputError as error:
        print(f"membench.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except FaultError as error:
        print(f"membench.py: {error}", file=sys.stderr)
        return EXIT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
