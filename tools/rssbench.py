"""Measure RSS and anonymous memory of training processes, sampled from outside.

    python tools/rssbench.py causes [--env Alien] [--resolution N] [--budget 0.07GB]   memory of `seer-edge train`
    python tools/rssbench.py slope [--env Alien] [--resolution N]     bytes of RSS per byte of budget
    python tools/rssbench.py watch [--out FILE.csv] -- COMMAND...     peak of a training command, and its freeze

The top of this module imports only the standard library, because a child measures the cost of each import.
"""

import argparse
import bisect
import csv
import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from children import Mark, MemorySampler, Sample, import_reader, mark, run_child, serve
from commandline import (
    BadInputError,
    FaultError,
    Parser,
    add_env_flags,
    count,
    mb,
    open_environment,
    out_file,
    progress,
    render,
    run_tool,
    size,
)

if TYPE_CHECKING:
    from seer_edge.config.plan import BytePlan
    from seer_edge.envs import EnvSpec

SLOPE_BUDGETS_BYTES = (20_000_000, 120_000_000)
FREEZE_LINE = re.compile(r"freeze at step .* in ([\d.]+) s,")


# --- a training process by cause ----------------------------------------------------------------------------------


def train_job(env: str, resolution: int | None, budget_bytes: int, seed: int) -> None:
    """In a child, do everything in `seer-edge train` that affects memory, with as few updates as possible."""
    mark("interpreter")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `seer_runtime.onnx.load`, whose imports are measured later
    for module in ("numpy", "onnxruntime", "torch"):
        importlib.import_module(module)
        mark(module)
    from seer_edge.envs import EnvOptions, make_env

    environment = make_env(env, EnvOptions(resolution=resolution), seed=seed, training=True)
    environment.reset()
    spec = environment.spec
    environment.close()
    mark("emulator")

    from seer_edge.config.build import build_config
    from seer_edge.config.plan import make_plan
    from seer_edge.machine.host import prepare_compute
    from seer_edge.runs import checkpoint
    from seer_edge.training.evaluate import evaluate_session
    from seer_edge.training.freeze import freeze
    from seer_edge.training.session import build_session
    from seer_runtime.system.process import settle

    config = build_config(spec, mem_budget_bytes=budget_bytes, resolution=resolution, eval_episodes=1, seed=seed)
    plan = make_plan(config, spec)
    prepare_compute(config)
    importlib.import_module("seer_edge.training.run")  # imported for its cost
    settle()
    mark("idle code released")
    session = build_session(plan)
    mark("agent built")

    def steps(count: int, *, learn: bool) -> None:
        session.plan = _learning_from(plan, 0 if learn else sys.maxsize)
        for _ in range(count):
            session.step()

    store, settings = session.replay.store, config.settings
    steps(settings.batch_size + settings.n_step + settings.stack, learn=False)
    steps(1, learn=True)
    mark("first pixel update")
    steps(store.capacity - store.rows, learn=False)
    steps(5, learn=True)
    mark("arena filled")
    with tempfile.TemporaryDirectory() as folder:
        freeze(
            session,
            Path(folder) / "encoder.onnx",
            lambda: checkpoint.save(session.snapshot(), Path(folder) / "checkpoints"),
        )
    mark("conversion")
    steps(1, learn=True)
    mark("first latent update")
    steps(20, learn=True)
    evaluate_session(plan, session, lambda: False, lambda _: None)
    lines = ("arena", "columns", "priorities", "workspace", "model", "optimizer", "activation", "acting")
    planned = {name: getattr(plan, f"{name}_bytes") for name in lines}
    mark("evaluation", **planned, environment=plan.env.process_bytes)


def _learning_from(plan: "BytePlan", step: int) -> "BytePlan":
    settings = dataclasses.replace(plan.config.settings, learning_starts=step)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, settings=settings))


def _train_marks(spec: "EnvSpec", resolution: int | None, budget_bytes: int, seed: int) -> Iterator[Mark]:
    return run_child(__file__, "train", env=spec.id, resolution=resolution, budget_bytes=budget_bytes, seed=seed)


def show_causes(spec: "EnvSpec", resolution: int | None, budget_bytes: int, seed: int) -> None:
    """Print the memory of a training process by cause, and the parts that the plan does not cover."""
    marks = list(_train_marks(spec, resolution, budget_bytes, seed))
    before = [0, *(mark.rss_bytes for mark in marks)]
    lines = [
        (
            mark.name,
            mb(mark.rss_bytes),
            f"{(mark.rss_bytes - last) / 1e6:+.1f}",
            mb(mark.peak_bytes),
            mb(mark.anon_bytes),
            mb(mark.anon_peak_bytes),
        )
        for mark, last in zip(marks, before, strict=False)
    ]
    peak_bytes = max(mark.peak_bytes for mark in marks)
    planned = marks[-1].facts
    anon_peak_bytes = max(mark.anon_peak_bytes for mark in marks)
    rest, anon_rest = (peak - sum(planned.values()) for peak in (peak_bytes, anon_peak_bytes))
    frames = "x".join(map(str, spec.frame_shape))
    print(f"{spec.id}, frames {frames}, budget {budget_bytes:,} B; memory in MB, sampled from outside")
    print(render(("after", "RSS", "added", "peak since", "anonymous", "peak since"), lines))
    print(f"peak {peak_bytes:,} B")
    print(f"peak of anonymous memory {anon_peak_bytes:,} B")
    print("plan: " + ", ".join(f"{name} {size_bytes:,}" for name, size_bytes in planned.items()))
    print(f"everything else: {rest:,} B")
    print(f"everything else, anonymous: {anon_rest:,} B")


def show_slope(spec: "EnvSpec", resolution: int | None, seed: int) -> None:
    """Print the bytes of peak RSS per byte of budget, from two processes that fill their rings."""
    peaks = []
    for budget_bytes in SLOPE_BUDGETS_BYTES:
        progress(f"filling {budget_bytes:,} B")
        marks = _train_marks(spec, resolution, budget_bytes, seed)
        peaks.append(max(mark.peak_bytes for mark in marks))
        print(f"budget {budget_bytes:>11,} B: peak RSS {peaks[-1]:,} B")
    low, high = SLOPE_BUDGETS_BYTES
    print(f"bytes of RSS per byte of budget: {(peaks[1] - peaks[0]) / (high - low):.3f} (target 1.0 within 10 %)")


# --- any training command -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Watched:
    """Exit status and memory samples of a command."""

    status: int
    samples: list[Sample]
    frozen: tuple[float, float] | None  # start and end of the freeze on the samples' clock; None without a freeze


def watch(command: list[str]) -> Watched:
    """Run `command` to its end and pass its stderr on. Raises FaultError where it ends before the first sample."""
    import_reader()
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    frozen = None
    with child.stderr, MemorySampler(child.pid) as sampler:
        for line in child.stderr:
            moment = time.monotonic()
            sys.stderr.write(line)
            if match := FREEZE_LINE.search(line):
                frozen = moment - float(match[1]), moment
        status = child.wait()
    if not sampler.samples:
        raise FaultError(f"{command[0]} ended with status {status} before its memory could be read")
    return Watched(status, sampler.samples, frozen)


def watched_bytes(watched: Watched) -> dict[str, int]:
    """Return the peaks of the process and the figures of its freeze, in bytes.

    For the freeze these are RSS before, at its peak and after, the growth, and the peak's excess over both ends. Its
    start is known to 10 ms, because the printed duration is rounded and the line is read a little later.
    """
    moments, rss_bytes, anon_bytes = zip(*watched.samples, strict=True)
    sizes = {"process peak": max(rss_bytes), "anonymous peak": max(anon_bytes)}
    if watched.frozen is None:
        return sizes
    begin, end = watched.frozen
    # From the last sample before the freeze to the first one after it, where they exist.
    first, last = max(bisect.bisect_left(moments, begin) - 1, 0), bisect.bisect_left(moments, end)
    during = rss_bytes[first : last + 1]
    before, peak, after = during[0], max(during), during[-1]
    return sizes | {
        "freeze before": before,
        "freeze peak": peak,
        "freeze after": after,
        "freeze growth": after - before,
        "freeze transient": peak - max(before, after),
    }


def write_samples(samples: list[Sample], path: Path) -> None:
    """Write a CSV with the seconds since the first sample, the RSS and the anonymous memory in bytes."""
    start = samples[0][0]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seconds", "rss_bytes", "anon_bytes"))
        writer.writerows((f"{moment - start:.4f}", *sizes) for moment, *sizes in samples)


def show_watch(command: list[str], out: Path | None) -> int:
    """Watch `command` and print its figures; return its exit status."""
    if shutil.which(command[0]) is None:
        raise BadInputError(f"COMMAND {command[0]}: program not found; give its path")
    if out is not None:
        try:
            out.touch()
        except OSError as error:
            raise BadInputError(f"--out {out}: cannot be written ({error.strerror}); name another file") from error
    watched = watch(command)
    print(render(("memory, sampled from outside", "MB"), [(name, mb(b)) for name, b in watched_bytes(watched).items()]))
    if out is not None:
        write_samples(watched.samples, out)
    return watched.status


# --- command line -------------------------------------------------------------------------------------------------


def _flags() -> argparse.Namespace:
    parser = Parser(prog="rssbench.py", description=(__doc__ or "").splitlines()[0])
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    causes = jobs.add_parser("causes", help="memory of seer-edge train by cause")
    causes.add_argument("--budget", type=size, default="0.07GB", metavar="SIZE", help="bytes for observations (0.07GB)")
    low, high = (f"{size_bytes // 10**6} MB" for size_bytes in SLOPE_BUDGETS_BYTES)
    slope = jobs.add_parser("slope", help=f"RSS of seer-edge train at budgets of {low} and {high}")
    for job in (causes, slope):
        add_env_flags(job)
        job.add_argument("--resolution", type=count, metavar="N", help="side of a frame (the environment's default)")
    watch_ = jobs.add_parser("watch", help="memory of a training command, and RSS around its freeze")
    watch_.add_argument(
        "--out", type=out_file, metavar="FILE", help="write the samples as CSV: seconds, RSS, anonymous"
    )
    watch_.add_argument("command", nargs="+", metavar="COMMAND", help="after --, the command to run")
    return parser.parse_args()


def _run() -> int:
    flags = _flags()
    if flags.job == "watch":
        return show_watch(flags.command, flags.out)
    environment = open_environment(flags, flags.resolution)
    environment.close()
    if flags.job == "causes":
        show_causes(environment.spec, flags.resolution, flags.budget, flags.seed)
    else:
        show_slope(environment.spec, flags.resolution, flags.seed)
    return 0


if __name__ == "__main__":
    if not serve({"train": train_job}):
        sys.exit(run_tool("rssbench.py", _run))
