"""The cost of a sweep in hours on this machine, from short runs with the same settings."""

import csv
import dataclasses
import itertools
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.plan import BytePlan
from seer_edge.errors import RunStoppedError
from seer_edge.runs.run_folder import RunFolder
from seer_edge.sweeps.engine import Engine, Running, Task
from seer_edge.sweeps.runner import summary_of
from seer_edge.sweeps.spec import Job

STEPS, STEPS_MIN, STEPS_SHARE = 120, 20, 8
"""Steps of each phase that a calibration times: an eighth of the run, within these bounds."""
WARM_UP_STEPS, WARM_UP_STEPS_MIN = 200, 40
POLL_SECONDS = 0.1

Kind = tuple[str, str]
"""Environment and variant: jobs of one kind differ in their seeds only."""


@dataclass(frozen=True)
class Speed:
    """Seconds that a calibration took."""

    start: float  # of a process, up to its first step
    acting: float  # a step without an update
    pixel: float  # a step before the freeze
    latent: float  # a step after it
    evaluation: float  # an evaluation of one episode

    def seconds(self, plan: BytePlan, begin: int) -> float:
        """Return the estimate for a job that begins at the step `begin`."""
        config = plan.config
        total, starts = config.total_timesteps, config.settings.learning_starts
        freeze = total if config.freeze_at is None else config.freeze_at
        acting = max(0, min(starts, total) - begin)
        pixel = max(0, min(freeze, total) - max(starts, begin))
        latent = max(0, total - max(freeze, starts, begin))
        evaluations = 0 if config.eval_every is None else max(1, -(-(total - begin) // config.eval_every))
        steps = acting * self.acting + pixel * self.pixel + latent * self.latent
        return self.start + steps + evaluations * config.eval_episodes * self.evaluation


def kind_of(job: Job) -> Kind:
    """Return the kind of a job."""
    return job.env, job.variant


def first_step(job: Job, plans: Mapping[Kind, BytePlan]) -> int:
    """Return the step at which a job begins: 0, or that of its parent."""
    if job.parent is None:
        return 0
    return plans[kind_of(job.parent)].config.total_timesteps if job.at is None else job.at


def measure(plans: Mapping[Kind, BytePlan], jobs: Sequence[Job], engine: Engine) -> dict[Kind, Speed]:
    """Run a short run of each kind, as many at a time as the sweep would. Raises RunStoppedError if one fails."""
    first = {kind_of(job): job for job in reversed(jobs)}
    with tempfile.TemporaryDirectory(prefix="seer-edge-") as name:
        place, speeds = Path(name), dict[Kind, Speed]()
        while len(speeds) < len(first):
            # The short run of a source comes before those that import its encoder.
            ready = {
                kind: job
                for kind, job in first.items()
                if kind not in speeds and (job.imports is None or kind_of(job.imports) in speeds)
            }
            waiting = [(kind, _task(job, plans[kind], place, _name(kind))) for kind, job in ready.items()]
            # Fewer kinds than places: load the machine as the sweep will.
            load = min(engine.slots(waiting[0][1].threads, waiting[0][1].rss_bytes), len(jobs)) - len(waiting)
            for number, (kind, job) in zip(range(load), itertools.cycle(ready.items()), strict=False):
                waiting.append((kind, _task(job, plans[kind], place, f"{_name(kind)}__{number}")))
            took = _run(waiting, engine)
            speeds |= {kind: _speed(place, task, took[task.log], plans[kind]) for kind, task in waiting}
        return speeds


def _name(kind: Kind) -> str:
    return "__".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in kind)


def _task(job: Job, plan: BytePlan, place: Path, name: str) -> Task:
    warm_up, steps = _lengths(plan)
    freezes = plan.config.freeze_at is not None and plan.config.source is None
    total = warm_up + (2 if freezes else 1) * steps
    options: dict[str, Any] = job.all_options
    options |= {"total_timesteps": total, "eval_episodes": 1}
    options["eval_every"] = "never" if plan.config.eval_every is None else total
    options |= {"log_every": steps // 3, "checkpoint_every": "24h", "keep_checkpoint": ()}
    random_steps = min(plan.config.settings.random_steps, warm_up)
    options["set"] = {**options.get("set", {}), "learning_starts": warm_up, "random_steps": random_steps}
    if plan.config.source is None:
        options["freeze_at"] = warm_up + steps if freezes else "never"
    source = None if job.imports is None else dataclasses.replace(job.imports, name=_name(kind_of(job.imports)))
    root = dataclasses.replace(job, name=name, options=options, parent=None, at=None, keeps=(), source=source)
    return Task(root.words(place), place / f"{name}.log", plan.rss_peak_bytes, plan.config.threads)


def _lengths(plan: BytePlan) -> tuple[int, int]:
    """Return the steps of a calibration before its first update, and those of each phase after it."""
    share = plan.config.total_timesteps // STEPS_SHARE
    return min(WARM_UP_STEPS, max(WARM_UP_STEPS_MIN, 2 * share)), min(STEPS, max(STEPS_MIN, share))


def _run(waiting: Sequence[tuple[Kind, Task]], engine: Engine) -> dict[Path, float]:
    """Run all tasks; return the seconds of each, by its log."""
    left, running, took = [task for _, task in waiting], dict[Path, tuple[float, Running]](), dict[Path, float]()
    try:
        while left or running:
            while left and engine.has_room(left[0], [one.task for _, one in running.values()]):
                task = left.pop(0)
                running[task.log] = time.monotonic(), engine.start(task)
            for log, (begin, one) in list(running.items()):
                status = one.status()
                if status is not None:
                    del running[log]
                    took[log] = time.monotonic() - begin
                if status not in (None, 0):
                    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                    raise RunStoppedError(f"a calibration ended with status {status}: {last[0]}")
            time.sleep(POLL_SECONDS)
    finally:
        for _, one in running.values():
            one.stop()
        while any(one.status() is None for _, one in running.values()):
            time.sleep(POLL_SECONDS)
    return took


def _speed(place: Path, task: Task, took: float, plan: BytePlan) -> Speed:
    run = RunFolder(place / task.log.stem)
    with run.progress.open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = summary_of(run.path)
    speeds = summary["steps_per_second"]
    either = speeds["latent"] or speeds["pixel"] or 1.0
    acting = max(float(row["time/fps"]) for row in rows if int(row["time/total_timesteps"]) <= _lengths(plan)[0])
    before, last = rows[-2], rows[-1]
    steps = int(last["time/total_timesteps"]) - int(before["time/total_timesteps"])
    elapsed = float(last["time/time_elapsed"]) - float(before["time/time_elapsed"])
    evaluation = 0.0 if plan.config.eval_every is None else max(0.0, elapsed - steps / float(last["time/fps"]))
    return Speed(
        start=max(0.0, took - float(last["time/time_elapsed"])),
        acting=1 / acting,
        pixel=1 / (speeds["pixel"] or either),
        latent=1 / either,
        evaluation=evaluation,
    )
