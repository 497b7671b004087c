"""Reproductions of the paper's tables and figures."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seer_edge.api.analysis import analyze
from seer_edge.api.results import ReproductionResult, SweepResult
from seer_edge.api.sweeps import ENGINES, RAY_ADDRESS, EngineName, engine_of, estimate, plans_of, run_jobs
from seer_edge.errors import BadInputError, written_to
from seer_edge.reports.build import check_packages, write_page
from seer_edge.reproduction.description import Reproduction, load, names
from seer_edge.reproduction.page import Made, page_of
from seer_edge.reproduction.scaling import scaled
from seer_edge.runs.run_folder import check_outside_runs
from seer_edge.sweeps.engine import Engine
from seer_edge.sweeps.spec import Job
from seer_edge.validation import path_of
from seer_runtime import durable

OUTPUT = logging.getLogger("seer_edge.output")
"""Takes the estimate, which the command line prints to stdout."""

reproduction_names = names
ANALYSIS = "analysis"
RECORD = "reproduction.json"
DEFAULT_FOLDER = Path("runs")


def reproduce(
    name: str,
    output: str | os.PathLike[str] | None = None,
    *,
    scale: float = 1.0,
    envs: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    engine: EngineName = ENGINES[0],
    ray_address: str = RAY_ADDRESS,
    jobs: int | None = None,
    dry_run: bool = False,
    progress_bar: bool = False,
    plugins: Sequence[str] = (),
) -> ReproductionResult:
    """Train the runs of a table or figure of the paper, and write a page with the paper's numbers beside theirs.

    First short runs are measured, and the estimated time is logged. Repeat the call to continue, as with `sweep`. The
    page is written when the runs end or are stopped.

    Args:
        name: the table or figure, such as "table1" or "fig2"; see docs/reproduce.md.
        output: folder of the runs and of the page, NAME.html. Default: runs/NAME.
        scale: factor of all steps, above 0 and at most 1.
        envs: only these of its environments, and the runs that they need. Default: all.
        seeds: seeds instead of the paper's number of runs.
        engine: "local", this machine, or "ray", a Ray cluster whose nodes share `output`.
        ray_address: HOST:PORT of the cluster's head, or "auto".
        jobs: runs at a time. The default is one for each core, and as many as fit into the available memory.
        dry_run: train nothing. Measure short runs and estimate the seconds that each run still needs.
        progress_bar: show a bar on stderr, if that is a terminal.
        plugins: modules that each run imports, as `--plugin` does.

    Returns:
        How each run ended, and the page.

    Raises:
        BadInputError: there is no such table or figure, an option cannot be used, or the folder is of another one.
        RunStoppedError: a short run that is measured failed.

    Examples:
        >>> import seer_edge
        >>> result = seer_edge.reproduce(
        ...     "fig4", "runs/fig4", scale=0.0001, envs=["Alien"], seeds=[0], jobs=2, dry_run=True
        ... )
        >>> [job.name for job in result.sweep.jobs]
        ['Alien__rainbow__0', 'Alien__rainbow-seer__0']

    """
    what = load(name)
    if not (isinstance(scale, int | float) and 0 < scale <= 1):
        raise BadInputError(f"--scale {scale}: give a number above 0 and at most 1")
    folder = DEFAULT_FOLDER / name if output is None else path_of("-o", output)
    made = _planned(what, folder, scale, what.jobs(envs, seeds))
    with contextlib.closing(engine_of(engine, ray_address, jobs)) as place:
        if dry_run:
            return ReproductionResult(estimate(made.folder, made.jobs, made.plans, place, plugins), None)
        check_packages()
        made, result = _trained(made, place, plugins, progress_bar=progress_bar)
    return _reported(made, result, progress_bar=progress_bar)


def _reported(made: Made, result: SweepResult, *, progress_bar: bool) -> ReproductionResult:
    """Write the page of the runs that have begun. Raises BadInputError."""
    problems = {job.name: job.failure or job.status for job in result.jobs if job.status != "finished"}
    analysis = _analysis(made.reproduction, result, progress_bar=progress_bar)
    page = page_of(dataclasses.replace(made, problems=problems, analysis=analysis))
    if page is None:
        return ReproductionResult(result, None)
    path = made.folder / f"{made.reproduction.name}.html"
    write_page(page, path)
    return ReproductionResult(result, path)


def _planned(what: Reproduction, folder: Path, scale: float, listed: list[Job]) -> Made:
    """Scale and plan the jobs of a reproduction. Raises BadInputError."""
    check_outside_runs(folder, "-o")
    forecast = _forecast_in(folder, what, scale)
    full = plans_of(listed, what.name, folder)
    jobs = scaled(listed, full, scale)
    plans = full if scale == 1 else plans_of(jobs, f"{what.name} --scale {scale:g}", folder)
    return Made(what, scale, folder, jobs, full, plans, forecast)


def _trained(made: Made, place: Engine, plugins: Sequence[str], *, progress_bar: bool) -> tuple[Made, SweepResult]:
    """Estimate the cost, unless the folder has it from an earlier call, and run the jobs. Raises BadInputError."""
    if not {job.name for job in made.jobs} <= made.forecast.keys():
        expected = estimate(made.folder, made.jobs, made.plans, place, plugins)
        if expected.signal is not None:
            return made, expected
        OUTPUT.info(expected.render())
        estimated = {job.name: job.seconds for job in expected.jobs if job.seconds is not None}
        made = dataclasses.replace(made, forecast={**estimated, **made.forecast})
    _write_record(made)
    return made, run_jobs(made.folder, made.jobs, made.plans, place, progress_bar=progress_bar, plugins=plugins)


def description_of(name: str) -> str:
    """Return the file of a table or figure, which `sweep` accepts. Raises BadInputError if there is none."""
    return load(name).text


def _analysis(what: Reproduction, result: SweepResult, *, progress_bar: bool) -> Path | None:
    """Analyze the encoders of the finished runs, if the figure shows them. Return the folder of the files."""
    finished = [result.folder / job.name for job in result.jobs if job.status == "finished"]
    if not what.pictures or not finished or result.signal is not None:
        return None
    return analyze(finished, result.folder / ANALYSIS, progress_bar=progress_bar).folder


def _record_of(what: Reproduction, scale: float) -> dict[str, Any]:
    """Return what two reproductions in one folder must have in common: figures with the same runs may share them."""
    return {"scale": scale, "sweep": what.sweep}


def _forecast_in(folder: Path, what: Reproduction, scale: float) -> dict[str, float]:
    """Return the estimated seconds by job that the folder records; empty if it is new. Raises BadInputError."""
    path = folder / RECORD
    if folder.is_dir() and not any(folder.iterdir()):
        return {}
    if os.path.lexists(folder) and not path.is_file():
        raise BadInputError(f"-o {folder}: not the folder of a reproduction; name a new one")
    if not path.is_file():
        return {}
    try:
        record: Mapping[str, Any] = durable.read_json(path)
        forecast = {str(job): float(seconds) for job, seconds in record["forecast"].items()}
        found = {entry: record[entry] for entry in ("scale", "sweep")}
        named = str(record["name"])
    except (OSError, durable.CorruptFileError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(f"-o {folder}: {path.name} cannot be used ({error}); name another folder") from error
    if found != _record_of(what, scale):
        raise BadInputError(
            f"-o {folder}: holds the runs of {named} with --scale {found['scale']}; name another folder"
        )
    return forecast


def _write_record(made: Made) -> None:
    """Record the estimated seconds by job, for later calls. Raises BadInputError."""
    what, folder = made.reproduction, made.folder
    with written_to("-o", folder):
        durable.make_folder(folder)
        record = {"name": what.name, **_record_of(what, made.scale), "forecast": dict(made.forecast)}
        durable.write_json(folder / RECORD, record)
