"""Reports of runs."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from seer_edge.api.results import ReportResult
from seer_edge.errors import BadInputError
from seer_edge.reports import build
from seer_edge.reports.scores import Point
from seer_edge.runs.run_folder import check_outside_runs
from seer_edge.validation import path_of

LOG = logging.getLogger(__name__)
DEFAULT_PORT = 8008


def report(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    at_step: int | None = None,
    at_flops: float | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> ReportResult:
    """Write one HTML page with figures and tables of runs. It opens from a file and needs nothing else.

    Args:
        runs: folders of runs. They may be unfinished, and of several games.
        output: the page to write.
        at_step: compare scores at this step. Default: at the end of each run.
        at_flops: compare scores at this number of FLOPs instead, for example 45e12.
        figures: folder to write a PNG and a CSV file of each figure to.

    Returns:
        The page's path, the figures' names, and the folders of unfinished runs.

    Raises:
        BadInputError: a folder is not a run, a file cannot be written, or a package of the extra `report` is missing.

    Examples:
        >>> import seer_edge
        >>> result = seer_edge.report(["runs/camera"], "report.html", figures="figures")
        >>> result.path.stat().st_size < 1_000_000
        True
        >>> (result.folder / "memory.csv").exists()
        True

    """
    path = path_of("-o", output)
    options = _options(runs, at_step, at_flops, figures)
    content = build.write_report(options, path)
    unfinished = tuple(run.path for run in content.runs if not run.is_finished)
    names = tuple(figure.name for figure in content.figures)
    return ReportResult(path, options.figures, names, unfinished)


def follow(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    at_step: int | None = None,
    at_flops: float | None = None,
    port: int = DEFAULT_PORT,
) -> None:
    """Serve the report of runs on this machine until it is interrupted. The page refreshes while the runs continue.

    The options are those of `report`. With `output`, that file is kept current too. Raises BadInputError, also if the
    port is not free.
    """
    from seer_edge.reports.serve import HOST, LiveReport, server_of

    build.check_packages()
    path = None if output is None else path_of("-o", output)
    if path is not None:
        build.check_page(path)
    options = _options(runs, at_step, at_flops, None)
    live = LiveReport(options, None if path is None else lambda page: build.write_page(page, path))
    with server_of(live, port) as server:
        LOG.info("serving the report on http://%s:%d; press Ctrl-C to end", HOST, server.server_address[1])
        server.serve_forever()


def _options(
    runs: Sequence[str | os.PathLike[str]],
    at_step: int | None,
    at_flops: float | None,
    figures: str | os.PathLike[str] | None,
) -> build.ReportOptions:
    if isinstance(runs, str | os.PathLike):
        raise BadInputError(f"report: {str(runs)!r} is one path; give a list of folders")
    if not runs:
        raise BadInputError("report: no run; name at least one folder")
    if at_step is not None and at_flops is not None:
        raise BadInputError("--at-step and --at-flops: cannot be given together; leave one out")
    if at_step is not None and (not isinstance(at_step, int) or at_step < 1):
        raise BadInputError(f"--at-step {at_step!r}: cannot be used; give a whole number of at least 1")
    if at_flops is not None and not (isinstance(at_flops, int | float) and 0 < at_flops < math.inf):
        raise BadInputError(f"--at-flops {at_flops!r}: cannot be used; give a number above 0, for example 45e12")
    folder = None if figures is None else Path(figures)
    if folder is not None:
        check_outside_runs(folder, "--figures")
    return build.ReportOptions(tuple(map(Path, runs)), Point(at_step, at_flops), folder)
