"""Sweeps: many runs from one description."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from seer_edge.api.forks import Beginning, config_of_fork
from seer_edge.api.planning import plan_before_source
from seer_edge.api.results import SweepEstimate, SweepJob, SweepResult
from seer_edge.api.runs import plan
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.config.request import ForkRequest, RunRequest
from seer_edge.envs.guarded import closing_idle
from seer_edge.errors import BadInputError
from seer_edge.machine.signals import StopSignal
from seer_edge.runs.run_folder import check_outside_runs
from seer_edge.sweeps.calibration import measure
from seer_edge.sweeps.cost import Kind, duration, first_step, kind_of
from seer_edge.sweeps.engine import Engine, LocalEngine
from seer_edge.sweeps.runner import (
    Need,
    Progress,
    Runner,
    check_forks,
    is_busy,
    locked,
    record_jobs,
    records_of,
    steps_of,
    summary_of,
)
from seer_edge.sweeps.spec import Job, jobs_of, read_spec
from seer_edge.validation import path_of
from seer_runtime.system.memory import memory_limits

Plans = Mapping[Kind, BytePlan]
EngineName = Literal["local", "ray"]
ENGINES = get_args(EngineName)
RAY_ADDRESS = "auto"
RSS_SHARE = 0.9
"""Share of the memory that is available at the start which planned runs may take."""


def sweep(
    spec: str | os.PathLike[str] | Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    engine: EngineName = "local",
    ray_address: str = RAY_ADDRESS,
    jobs: int | None = None,
    dry_run: bool = False,
    progress_bar: bool = False,
    plugins: Sequence[str] = (),
) -> SweepResult:
    """Train every run of a description: environments x variants x seeds, as processes with the lowest priority.

    Repeat the call to continue: finished runs are not repeated, interrupted and failed ones resume. SIGINT, SIGTERM and
    SIGHUP end the running ones with a checkpoint. If this process is killed, they continue to their ends, and the next
    call waits for them.

    Args:
        spec: a TOML file, or its content as a mapping; see docs/sweeps.md.
        output: folder of the sweep, with one folder for each run.
        engine: "local", this machine, or "ray", a Ray cluster whose nodes share `output`.
        ray_address: HOST:PORT of the cluster's head, or "auto" for the one that this machine belongs to.
        jobs: runs at a time. The default is one for each core, and as many as fit into the available memory.
        dry_run: train nothing. Measure short runs and estimate the seconds that each run still needs.
        progress_bar: show a bar on stderr, if that is a terminal.
        plugins: modules that each run imports, as `--plugin` does.

    Returns:
        How each run ended.

    Raises:
        BadInputError: the description cannot be used, the folder is of another sweep, or no cluster answers.
        RunStoppedError: a calibration of `dry_run` failed.

    Examples:
        >>> import pathlib, seer_edge
        >>> _ = pathlib.Path("sweep.toml").write_text('''
        ... envs = ["camera_env:Camera-v0"]
        ... seeds = [0, 1]
        ... [settings]
        ... mem_budget = "4MB"
        ... total_timesteps = 120
        ... eval_episodes = 1
        ... set = {batch_size = 8, learning_starts = 40}
        ... ''')
        >>> result = seer_edge.sweep("sweep.toml", "runs/sweep", jobs=2)
        >>> [(job.name, job.status) for job in result.jobs]
        [('camera-env-Camera-v0__run__0', 'finished'), ('camera-env-Camera-v0__run__1', 'finished')]

    """
    listed, name = (jobs_of(spec), "sweep") if isinstance(spec, Mapping) else (read_spec(Path(spec)), os.fspath(spec))
    folder = path_of("-o", output)
    check_outside_runs(folder, "-o")
    plans = plans_of(listed, name, folder)
    check_forks(folder, listed)
    records_of(folder, listed)  # raises what `run_jobs` would, before anything is written
    with contextlib.closing(engine_of(engine, ray_address, jobs)) as place:
        if dry_run:
            return estimate(folder, listed, plans, place, plugins)
        return run_jobs(folder, listed, plans, place, progress_bar=progress_bar, plugins=plugins)


def run_jobs(
    folder: Path,
    listed: Sequence[Job],
    plans: Plans,
    place: Engine,
    *,
    progress_bar: bool = False,
    plugins: Sequence[str] = (),
) -> SweepResult:
    """Run the jobs of a sweep in `folder` to their ends. Raises BadInputError if it is that of another sweep."""
    needs = {job.name: _need(plans[kind_of(job)]) for job in listed}
    with locked(folder):
        record_jobs(folder, listed)
        runner = Runner(folder, listed, needs, place).with_plugins(plugins)
        steps = sum(need.total_timesteps for need in needs.values())
        with StopSignal() as stop, _bar(progress_bar, steps) as show:
            runner.run(lambda: stop.received is not None, show)
    found = tuple(_job(folder, job, plans, runner) for job in listed)
    return SweepResult(folder, found, signal=stop.received)


def engine_of(name: str, ray_address: str, jobs: int | None) -> Engine:
    """Return the engine `name`. Raises BadInputError."""
    if jobs is not None and jobs < 1:
        raise BadInputError(f"--jobs {jobs}: give at least 1")
    if name not in ENGINES:
        raise BadInputError(f"--engine {name}: unknown value; choose one of {', '.join(ENGINES)}")
    if name == "local":
        if ray_address != RAY_ADDRESS:
            raise BadInputError(f"--ray-address {ray_address}: needs --engine ray; give both or none")
        return LocalEngine(jobs, round(RSS_SHARE * memory_limits().available_bytes))
    from seer_edge.sweeps.ray_engine import RayEngine

    return RayEngine(ray_address, jobs)


def estimate(
    folder: Path, listed: Sequence[Job], plans: Plans, place: Engine, plugins: Sequence[str] = ()
) -> SweepResult:
    """Return the jobs with the estimated seconds of what is left, or without them if a signal came first.

    Raises RunStoppedError if a calibration fails.
    """
    found = [_job(folder, job, plans, None) for job in listed]
    left = [(job, seen.timestep) for job, seen in zip(listed, found, strict=True) if seen.status != "finished"]
    with StopSignal() as stop:
        measured = measure(plans, [job for job, _ in left], place, folder, plugins, stop)
    if measured is None:
        return SweepResult(folder, tuple(found), signal=stop.received)
    speeds = measured

    def seconds_of(*, longest: bool) -> dict[str, float]:
        seconds = {job.name: 0.0 for job in listed}
        for job, step in left:
            begin = max(first_step(job, plans), step)
            seconds[job.name] = speeds[kind_of(job)].seconds(plans[kind_of(job)], begin, longest=longest)
        return seconds

    seconds, most = seconds_of(longest=False), seconds_of(longest=True)
    kinds = [_need(planned) for planned in plans.values()]
    slots = min(len(listed), place.slots(max(need.threads for need in kinds), max(n.rss_bytes for n in kinds)))
    notes = dict.fromkeys(
        f"{planned.env.name}: {speeds[kind].episodes.describe(planned.config.eval_limit_steps)}"
        for kind, planned in plans.items()
        if kind in speeds and planned.config.eval_every is not None
    )
    expected = SweepEstimate(duration(listed, seconds, slots), duration(listed, most, slots), slots, tuple(notes))
    jobs = tuple(dataclasses.replace(seen, seconds=seconds[seen.name]) for seen in found)
    return SweepResult(folder, jobs, estimate=expected)


def plans_of(jobs: Sequence[Job], spec: str, folder: Path) -> dict[Kind, BytePlan]:
    """Plan one job of each kind of the sweep in `folder`. Raises BadInputError, which names the job."""
    plans: dict[Kind, BytePlan] = {}
    configs: dict[Kind, TrainConfig] = {}
    named: dict[str, str] = {}  # environments, as the file names them
    for job in jobs:
        if kind_of(job) in plans:
            continue
        try:
            plans[kind_of(job)] = _plan(job, plans, folder)
            configs[kind_of(job)] = _config(job, plans, configs)
        except BadInputError as error:
            raise BadInputError(f"{spec}: {job.env}, variant {job.variant}: {error}") from error
        config = plans[kind_of(job)].config
        first = named.setdefault(config.env, job.env)
        if first != job.env:
            raise BadInputError(f"{spec}: {first} and {job.env} are both {config.env}; leave one of them out")
        total = config.total_timesteps
        late = [step for step in job.keeps if step > total]
        if late:
            raise BadInputError(f"{spec}: at = {late[0]}: variant {job.variant} ends at step {total}; give less")
    return plans


def _plan(job: Job, plans: Plans, folder: Path) -> BytePlan:
    options = job.all_options
    if job.imports is None:
        return plan(job.env, **options)  # checked by `read_spec`
    with closing_idle():
        request = RunRequest.of(env=job.env, **options)
        return plan_before_source(request, str(folder / job.imports.name), plans[kind_of(job.imports)])


def _config(job: Job, plans: Plans, configs: Mapping[Kind, TrainConfig]) -> TrainConfig:
    """Return the settings of a job. Raises BadInputError if it is a fork that its parent's checkpoint does not allow.

    Unlike those of its plan, they are exact for a fork, which inherits the step of the freeze.
    """
    planned = plans[kind_of(job)]
    if job.parent is None:
        return planned.config
    parent, at = configs[kind_of(job.parent)], job.at
    step, first = parent.total_timesteps if at is None else at, first_step(job.parent, plans)
    if step < first:
        raise BadInputError(f"at = {step}: variant {job.parent.variant} begins at step {first}; give that or more")
    # The checkpoint that is kept at the step of the freeze is the one before it.
    frozen = parent.freeze_at is not None and (step > parent.freeze_at or at is None or parent.freeze_at == 0)
    frozen_at = parent.freeze_at if frozen else None
    begin = Beginning(f"variant {job.parent.variant} at step {step}", parent, step, frozen_at)
    config = config_of_fork(begin, ForkRequest.of(**job.options))
    if planned.networks.parameters != plans[kind_of(job.parent)].networks.parameters:
        changed = ", ".join(job.options.get("set", {}))
        raise BadInputError(f"--set {changed}: changes the networks that {begin.name} has; leave it out")
    return config


def _need(planned: BytePlan) -> Need:
    return Need(planned.rss_peak_bytes, planned.config.threads, planned.config.total_timesteps)


def _job(folder: Path, job: Job, plans: Plans, runner: Runner | None) -> SweepJob:
    summary = summary_of(folder / job.name)
    evaluation = summary.get("eval")
    failure = None if runner is None else runner.failures.get(job.name)
    timestep = int(summary.get("timesteps", 0))
    if summary.get("status") == "finished":
        status = "finished"
    elif is_busy(folder / job.name):
        status, timestep = "running", steps_of(folder / job.name)
    elif runner is not None and failure is not None and job.name not in runner.interrupted:
        status = "failed"
    else:
        status = "interrupted" if summary else "waiting"
    return SweepJob(
        name=job.name,
        status=status,
        timestep=timestep,
        total_timesteps=plans[kind_of(job)].config.total_timesteps,
        mean_return=None if evaluation is None else float(evaluation["mean_return"]),
        rss_bytes=plans[kind_of(job)].rss_peak_bytes,
        failure=failure,
    )


@contextlib.contextmanager
def _bar(wanted: bool, total: int) -> Iterator[Callable[[Progress], object]]:
    """Yield a function that shows how far the sweep is."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda progress: None
        return
    from tqdm import tqdm

    layout = "{percentage:3.0f}%|{bar:8}|{elapsed}<{remaining}{postfix}"
    with tqdm(total=total, file=sys.stderr, bar_format=layout) as bar:

        def show(now: Progress) -> None:
            bar.update(now.steps - bar.n)
            bar.set_postfix_str(f"{now.finished} of {now.jobs} finished, {now.running} running, {now.failed} failed")

        yield show
