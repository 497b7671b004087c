"""Time the parts of a step before and after the freeze on real data, and the least work that each part needs.

python tools/speedbench.py --env Alien
python tools/speedbench.py --env cartpole-swingup --json now.json --against before.json
python tools/speedbench.py causes --env Alien

A part and its yardstick run in turns in one process, so their ratio hardly depends on the machine's load. The yardstick
of an update is its matrix products and convolutions, on the same memory. That of a gather is a copy of as many bytes,
that of a checkpoint a file of as many bytes, and that of an Atari step four bare frames of its emulator.

With --pipeline on, a step has two sides: the update thread, and everything else. Their CPU times are compared with the
wall time of the step, which cannot be shorter than the slower side, in the fastest tenth of the steps. Next to it is
what two threads reach that compute as long and share nothing: less than 1 where two cores are not free.

With one thread the clock is the main thread's CPU time, which other processes disturb least. With more threads, with
--pipeline on and for checkpoints it is wall time. The pipeline affects only the whole step; the parts run one at a
time. Batch, sizes and encoder are those of the preset. Where Stable-Baselines3 is installed, its DQN is timed too.

`causes` prints where the time of a whole step goes, by part and kind of work, in wall time under PyTorch's profiler.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import (
    BadInputError,
    Parser,
    add_env_flags,
    count,
    open_environment,
    out_file,
    progress,
    render,
    run_tool,
)
from pipeline_sides import Sides, sides_of, yardstick_of

if TYPE_CHECKING:
    from yardsticks import Clock, Job

    from seer_edge.training.session import Session
    from seer_runtime.replay.replay import Batch

TIMES = 60
STEPS_OF_FAULTS = 10
RELEASED = {"pixel": 35.0, "latent": 82.0}
"""Steps per second of the paper's released code on Alien, on one thread of a machine with 100 GFLOP/s."""


@dataclass(frozen=True)
class Timing:
    """Times of one part in milliseconds. Fields of the yardstick are None where a part has none."""

    phase: str
    part: str
    least: float
    median: float
    yardstick: str | None = None
    yardstick_least: float | None = None
    yardstick_median: float | None = None

    @property
    def key(self) -> str:
        """The part's key in a report."""
        return f"{self.phase}: {self.part}"

    @property
    def ratio(self) -> float | None:
        """Ratio of the medians of part and yardstick."""
        return None if not self.yardstick_median else self.median / self.yardstick_median


class Bench:
    """Measures the parts of a session's step."""

    def __init__(self, session: "Session", clock: "Clock", times: int) -> None:
        self.session, self.clock, self.times = session, clock, times
        self.timings: list[Timing] = []
        self.page_faults: dict[str, float] = {}
        """By phase, the page faults of one step."""
        self.sides: dict[str, tuple[Sides, Sides]] = {}
        """By phase, the sides of a step and their yardstick; empty without the pipeline."""

    def add(
        self,
        part: str,
        job: "Job",
        yardstick: "tuple[str, Job] | None" = None,
        *,
        before: "Job | None" = None,
        times: int | None = None,
        calls: int = 1,
    ) -> None:
        """Time `job`, which runs the part `calls` times, in turns with its named yardstick."""
        from yardsticks import time_in_turns

        name, other = yardstick or (None, None)
        own, others = (
            [taken / calls for taken in each]
            for each in time_in_turns(job, other, times or self.times, self.clock, before)
        )
        figures = (others[0], others[len(others) // 2]) if others else (None, None)
        self.timings.append(Timing(self.session.phase, part, own[0], own[len(own) // 2], name, *figures))

    def phase(self) -> None:
        """Measure all parts of a step, and the whole step."""
        from yardsticks import copy_of, emulator, products

        session = self.session
        agent, replay, perception = session.agent, session.replay, session.perception
        progress(f"the {session.phase} phase")
        frames = emulator(session.env.spec.id, 4)
        self.add("environment", lambda: _step(session), ("emulator", frames) if frames else None)
        frame = session.env.reset()
        self.add("encode", lambda: perception.observe(frame, first=True))
        session.observed = perception.observe(frame, first=True)

        def act() -> object:
            return agent.act(session.observed.input)

        self.add("act", act, ("products", products(act)))

        def sample() -> "Batch":
            return replay.sample(positives=agent.contrasts)

        self.add("sample", sample)
        batch = sample()

        def gather() -> int:
            both = (batch.observations, batch.next_observations)
            return sum(piece.nbytes for observations in both for piece in observations.slices())

        self.add("gather", gather, ("copy", copy_of(gather())))
        # An update uses the noise drawn for the previous action. Every second update of CURL does more work.
        calls = 2 if session.config.algo != "rainbow" else 1

        def update() -> None:
            for _ in range(calls):
                agent.update(batch)

        act()
        update()  # allocates memory and Adam's moments
        act()
        alone = products(update)
        self.add("update", update, ("products", alone), before=act, times=self.update_times(update), calls=calls)
        self.add("step", session.step, times=self.update_times(update))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(STEPS_OF_FAULTS):
            session.step()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        self.page_faults[session.phase] = faults / STEPS_OF_FAULTS
        if session.config.pipeline:
            sides = sides_of(session, self.update_times(update))
            self.sides[session.phase] = sides, yardstick_of(sides, self.times)

    def update_times(self, update: "Job") -> int:
        """Return how often to time an update: less often where one takes long."""
        begin = time.perf_counter()
        update()
        return max(5, min(self.times, int(20 / (time.perf_counter() - begin))))

    def freeze(self, folder: Path) -> None:
        """Measure a checkpoint, and the freeze with the conversion of all rows."""
        import numpy as np
        from yardsticks import file_of

        from seer_edge.runs import checkpoint
        from seer_edge.training.freeze import freeze
        from seer_runtime.onnx.encoder import MAX_BATCH

        session, store = self.session, self.session.replay.store
        progress("a checkpoint and the freeze")
        names = iter(range(sys.maxsize))

        def save() -> Path:
            return checkpoint.save(session.snapshot(), folder / f"checkpoints{next(names)}")

        size_bytes = sum(file.stat().st_size for file in save().rglob("*") if file.is_file())
        wall, self.clock = self.clock, time.perf_counter
        self.add("checkpoint", save, ("file", file_of(size_bytes, folder / "file")), times=3)
        self.clock = wall
        begin = self.clock()
        rows = freeze(session, folder / "encoder.onnx", lambda: None).rows
        taken = 1e3 * (self.clock() - begin)
        encoder = getattr(session.perception, "encoder", None)
        name, alone = None, None
        if encoder is not None:
            stacks = np.zeros((MAX_BATCH, *encoder.observation_shape), np.uint8)
            views = rows * session.config.augmentations
            begin = self.clock()
            for _ in range(-(-views // MAX_BATCH)):
                encoder(stacks)
            name, alone = "encoder", 1e3 * (self.clock() - begin)
        self.timings.append(Timing("pixel", f"freeze, {store.rows} rows", taken, taken, name, alone, alone))


def _step(session: "Session") -> None:
    step = session.env.step(session.env.spec.actions.sample(session.exploration))
    if step.terminated or step.truncated:
        session.env.reset()


def open_session(flags: argparse.Namespace) -> "tuple[Session, Clock]":
    """Build a session of the command line with enough rows to sample from; return it, about to learn, and the clock."""
    environment = open_environment(flags, flags.resolution)
    spec = environment.spec
    environment.close()

    from seer_edge.config.build import build_config
    from seer_edge.config.plan import make_plan
    from seer_edge.machine.host import prepare_compute
    from seer_edge.training.session import build_session

    pipeline = flags.pipeline == "on"
    config = build_config(spec, resolution=flags.resolution, seed=flags.seed, threads=flags.threads, pipeline=pipeline)
    plan = make_plan(config, spec)
    prepare_compute(config)
    settings = config.settings
    session = build_session(plan)
    # No updates while the replay fills.
    still = replace(settings, learning_starts=sys.maxsize, random_steps=sys.maxsize)
    session.plan = replace(plan, config=replace(config, settings=still))
    for _ in range(4 * settings.batch_size + settings.n_step):
        session.step()
    session.plan = plan
    session.timestep = max(settings.learning_starts, settings.random_steps)
    return session, time.thread_time if config.threads == 1 and not pipeline else time.perf_counter


def find_causes(flags: argparse.Namespace) -> int:
    """Print where the time of a step goes in both phases; return the exit status."""
    if flags.pipeline == "on" or flags.against is not None:
        flag = "--against" if flags.against is not None else "--pipeline on"
        raise BadInputError(f"{flag}: causes profiles one thread and compares nothing; omit it")
    session, _ = open_session(flags)

    import stepcauses

    from seer_edge.training.freeze import freeze

    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for phase in ("pixel", "latent"):
            progress(f"the {phase} phase")
            report[phase] = stepcauses.measure(session, flags.times)
            for line in stepcauses.table(phase, report[phase]):
                print(line)
            if phase == "pixel":
                freeze(session, Path(folder) / "encoder.onnx", lambda: None)
    session.env.close()
    if flags.json is not None:
        flags.json.write_text(json.dumps({phase: asdict(causes) for phase, causes in report.items()}, indent=1) + "\n")
    return 0


def measure(flags: argparse.Namespace) -> int:
    """Measure and print the table; return the exit status."""
    against = None if flags.against is None else read(flags.against)
    session, clock = open_session(flags)
    config, plan, spec, settings = session.config, session.plan, session.env.spec, session.config.settings
    setting = {
        "env": spec.id,
        "actions": str(spec.actions),
        "algo": config.algo,
        "encoder": config.encoder,
        "frames": "x".join(map(str, plan.encoder.input_shape)),
        "batch": settings.batch_size,
        "threads": config.threads,
        "clock": "wall" if clock is time.perf_counter else "CPU",
        "pipeline": flags.pipeline,
    }
    if against is not None:
        check_same_setting(setting, against, flags.against)

    from sb3_times import stable_baselines3
    from yardsticks import matrix_rate

    rates = [matrix_rate(clock)]
    bench = Bench(session, clock, flags.times)
    bench.phase()
    with tempfile.TemporaryDirectory() as folder:
        bench.freeze(Path(folder))
    bench.phase()
    session.env.close()
    for part, taken in stable_baselines3(spec.id, settings.batch_size, clock, flags.times):
        bench.timings.append(Timing("Stable-Baselines3 DQN", part, taken[0], taken[len(taken) // 2]))
    rates.append(matrix_rate(clock))
    report = {
        **setting,
        "gflops": rates,
        "page_faults_a_step": bench.page_faults,
        "sides": {phase: [asdict(sides) for sides in both] for phase, both in bench.sides.items()},
        "timings": [{**asdict(timing), "ratio": timing.ratio} for timing in bench.timings],
    }
    for line in table(report, bench.timings, against):
        print(line)
    if flags.json is not None:
        flags.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def check_same_setting(setting: dict[str, Any], against: dict[str, Any], path: Path) -> None:
    """Raise BadInputError if an earlier report measured something else."""
    for name, value in setting.items():
        if against.get(name) != value:
            raise BadInputError(
                f"--against {path}: its {name} is {against.get(name)}, not {value}; give the same flags"
            )


def table(report: dict[str, Any], timings: list[Timing], against: dict[str, Any] | None) -> Iterator[str]:
    """Yield the printed lines: the setting, a line for each part, and on Alien a comparison with the released code."""
    from seer_runtime.system.units import counted

    before, after = report["gflops"]
    yield (
        f"{report['env']}, {report['actions']}, {report['algo']}, {report['encoder']}, {report['frames']}, "
        f"batch {report['batch']}, {counted(report['threads'], 'thread')}, pipeline {report['pipeline']}; "
        f"fp32 product {before:.0f} GFLOP/s before, {after:.0f} after"
    )
    old = {} if against is None else {f"{was['phase']}: {was['part']}": was for was in against["timings"]}
    header = (f"{report['clock']} ms", "least", "median", "yardstick", "least", "median", "ratio")
    lines = []
    for timing in timings:
        was = old.get(timing.key, {})
        cells = (timing.least, timing.median, timing.yardstick, timing.yardstick_least, timing.yardstick_median)
        own = (timing.key, *map(_cell, cells), _cell(timing.ratio))
        then = () if against is None else tuple(_cell(was.get(name)) for name in ("least", "median", "ratio"))
        lines.append(own + then)
    yield render(header if against is None else (*header, "was least", "was median", "was ratio"), lines)
    for timing in timings:
        if timing.part == "update" and timing.ratio:
            yield f"{timing.phase}: an update takes {timing.ratio:.2f} times as long as its products"
    for phase, both in report["sides"].items():
        sides, yardstick = (Sides(**measured) for measured in both)
        yield (
            f"{phase}: update thread {sides.learning:.2f} ms, everything else {sides.acting:.2f} ms a step of "
            f"{sides.step:.2f} ms: {sides.pace:.2f} of the pace of the slower side; "
            f"two threads that share nothing reach {yardstick.pace:.2f} here"
        )
    faults = ", ".join(f"{count:,.0f} ({phase})" for phase, count in report["page_faults_a_step"].items())
    yield f"page faults per step: {faults}"
    if report["env"] == "ALE/Alien-v5" and report["algo"] == "rainbow" and report["threads"] == 1:
        for timing in timings:
            if timing.part == "step" and timing.phase in RELEASED:
                released = RELEASED[timing.phase] * max(before, after) / 100
                speed = 1e3 / timing.median
                yield (
                    f"{timing.phase}: {speed:.0f} steps/s; the released code's {RELEASED[timing.phase]:.0f} at "
                    f"100 GFLOP/s are {released:.0f} here: {speed / released:.2f}x"
                )


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.2f}"


def read(path: Path) -> dict[str, Any]:
    """Read a report that --json wrote. Raises BadInputError for any other file."""
    try:
        report = json.loads(path.read_text())
        if not all({"phase", "part", "least", "median", "ratio"} <= timing.keys() for timing in report["timings"]):
            raise ValueError("its timings are incomplete")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"--against {path}: not a report of --json ({error}); give one") from error
    return dict(report)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="speedbench.py", description="Time the parts of a step before and after the freeze.")
    parser.add_argument("what", nargs="?", choices=("parts", "causes"), default="parts", help="table to print (parts)")
    add_env_flags(parser)
    parser.add_argument("--resolution", type=count, metavar="N", help="side of a frame (the environment's default)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="compute threads (1)")
    parser.add_argument("--pipeline", choices=("on", "off"), default="off", help="pipeline of a step (off)")
    parser.add_argument("--times", type=count, default=TIMES, metavar="N", help=f"measurements of each part ({TIMES})")
    parser.add_argument("--json", type=out_file, metavar="FILE", help="also write the report to this file")
    parser.add_argument("--against", type=Path, metavar="FILE", help="print an earlier report of --json for comparison")

    def run() -> int:
        flags = parser.parse_args()
        return find_causes(flags) if flags.what == "causes" else measure(flags)

    return run_tool("speedbench.py", run)


if __name__ == "__main__":
    sys.exit(main())
