"""Build a report: read the runs, compute, draw, and write the page and its figures."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seer_edge.errors import BadInputError, written_to
from seer_edge.reports.figures import all_figures
from seer_edge.reports.grouping import grouped
from seer_edge.reports.page import Content, render
from seer_edge.reports.reading import read_runs
from seer_edge.reports.scores import Point, aggregates, comparisons, rows_of
from seer_edge.runs.run_folder import RunFolder
from seer_edge.validation import check_target
from seer_runtime import durable

PACKAGES = ("jinja2", "matplotlib", "scipy")
FIGURES = "--figures"
PAGE_BEGINS = b"<!doctype html>"


@dataclass(frozen=True)
class ReportOptions:
    """What to report.

    Attributes:
        runs: folders of runs, in the order of the page.
        point: where scores are compared.
        figures: folder for a PNG and a CSV file of each figure; None for none.

    """

    runs: tuple[Path, ...]
    point: Point
    figures: Path | None = None


def check_packages(names: Sequence[str] = PACKAGES) -> None:
    """Raise BadInputError if a package that pages and figures need is not installed; by default those of pages."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BadInputError(f"{name} is missing; pip install 'seer-edge[report]'") from error


def content_of(options: ReportOptions) -> Content:
    """Read the runs and compute everything that the page shows. Raises BadInputError."""
    runs = read_runs(options.runs)
    groups = grouped(runs)
    rows = rows_of(groups, options.point)
    games = ", ".join(groups)
    return Content(
        title=f"Runs of {games}" if len(groups) <= 4 else f"Runs of {len(groups)} games",
        runs=runs,
        rows=rows,
        aggregates=aggregates(rows),
        comparisons=comparisons(rows),
        figures=all_figures(groups, rows, options.point.text),
        point=options.point,
    )


def write_report(options: ReportOptions, output: Path) -> Content:
    """Write the page to `output`, and the figures to their folder. Raises BadInputError before anything is written."""
    check_packages()
    check_page(output)
    check_figures(options.figures)
    content = content_of(options)
    page = render(content)
    if options.figures is not None:
        with written_to(FIGURES, options.figures):
            options.figures.mkdir(parents=True, exist_ok=True)
    write_page(page, output)
    if options.figures is not None:
        write_figures(content, options.figures)
    return content


def write_page(page: str, output: Path) -> None:
    """Write a page to `output`, atomically. Raises BadInputError."""
    with written_to("-o", output, "file"):
        durable.write_atomic(output, page.encode(errors="replace"))  # names that are not UTF-8


def check_page(output: Path) -> None:
    """Raise BadInputError if a page cannot replace `output`, such as a table of a run."""
    check_target("-o", output)
    try:
        with output.open("rb") as file:
            begin = file.read(len(PAGE_BEGINS))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInputError(f"-o {output}: cannot be read ({error.strerror}); name another file") from error
    if begin and begin.lower() != PAGE_BEGINS:
        raise BadInputError(f"-o {output}: exists and is not a page; name another file")


def check_figures(folder: Path | None) -> None:
    """Raise BadInputError if `folder` is there and is not a folder."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise BadInputError(f"{FIGURES} {folder}: not a folder; name a new one")


def write_figures(content: Content, folder: Path) -> None:
    """Write NAME.png and NAME.csv of each figure to `folder`, which exists. Raises BadInputError."""
    from seer_edge.reports.drawing import write_png

    with written_to(FIGURES, folder):
        for figure in content.figures:
            durable.write_atomic(folder / f"{figure.name}.csv", figure.csv().encode())
            write_png(figure, folder / f"{figure.name}.png")


def version_of(runs: Sequence[Path]) -> str:
    """Return a text that changes when a run's tables or summary do."""
    parts = []
    for run in map(RunFolder, runs):
        for path in (run.progress, run.episodes, run.summary):
            try:
                state = path.stat()
            except OSError:
                continue
            parts.append(f"{state.st_mtime_ns}-{state.st_size}")
    return " ".join(parts)
