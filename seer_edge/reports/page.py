"""Fill the template of the page, `page.html`, which needs no file or address outside itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seer_edge.reports.drawing import PALETTE, VARIABLES, look_of, panel_svg
from seer_edge.reports.panels import Figure
from seer_edge.reports.reading import Run
from seer_edge.reports.reference_scores import ATARI_SOURCE, PAPER_SOURCE
from seer_edge.reports.scores import Aggregate, Comparison, Point, Row
from seer_edge.reports.statistics import RESAMPLES, Interval
from seer_edge.version import __version__

DARK_PALETTE = ("#5ab4f0", "#ff9a5c", "#3ccb9c", "#e08ad0", "#e6c04a", "#a9a9ff")
SHAPES = (
    "M11 8a5 5 0 0 0 10 0a5 5 0 0 0 -10 0",
    "M11.5 3.5h9v9h-9z",
    "M16 3l5.5 10h-11z",
    "M16 2l6 6l-6 6l-6 -6z",
    "M16 13l5.5 -10h-11z",
    "M14 3h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
)
"""The markers of `drawing.py` for legends, as paths in a box of 32 by 16."""
DASHES = ("none", "7 4", "8 3 2 3")
"""The dashes of `drawing.py` for legends."""
NONE = "–"


@dataclass(frozen=True)
class Head:
    """The head of a column; `number` aligns the column to the right."""

    text: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell; `warns` marks it."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Lead:
    """What stands above the scores on the page of a published table or figure.

    Attributes:
        source: the publication.
        shows: its claim.
        setting: its environments, runs and budgets.
        tables: titles and tables that compare it with the runs.
        differences: how the runs differ from it, one text each.
        cost: the time that the runs took; empty if it is not known.
        pictures: titles and PNG files, as base64.

    """

    source: str
    shows: str
    setting: str
    tables: Sequence[tuple[str, Table]]
    differences: Sequence[str]
    cost: str = ""
    pictures: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Content:
    """What a page shows."""

    title: str
    runs: Sequence[Run]
    rows: Sequence[Row]
    aggregates: Sequence[Aggregate]
    comparisons: Sequence[Comparison]
    figures: Sequence[Figure]
    point: Point
    lead: Lead | None = None


def render(content: Content, live: str = "") -> str:
    """Return the page as HTML. With `live`, the page reloads when "version" on its server is no longer that text."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    drawn = {
        figure.name: [markupsafe.Markup(panel_svg(figure, panel)) for panel in figure.panels]
        for figure in content.figures
    }
    return environment.get_template("page.html").render(
        title=content.title,
        lead=content.lead,
        version=__version__,
        moment=time.strftime("%Y-%m-%d %H:%M"),
        light=PALETTE,
        dark=DARK_PALETTE,
        shapes=SHAPES,
        dashes=DASHES,
        look_of=look_of,
        variables=VARIABLES,
        live=live,
        runs=content.runs,
        games=list(dict.fromkeys(run.game for run in content.runs)),
        unfinished=sum(not run.is_finished for run in content.runs),
        point=content.point.text,
        resamples=f"{RESAMPLES:,}",
        has_normalized=any(row.normalized is not None for row in content.rows),
        has_paper=any(row.paper is not None for row in content.rows),
        atari_source=ATARI_SOURCE,
        paper_source=PAPER_SOURCE,
        paper_point="at 45T FLOPs" if content.point.flops is not None else "at 500,000 steps in 0.07 GB",
        score_table=_score_table(content.rows),
        aggregate_table=_aggregate_table(content.aggregates),
        comparisons=content.comparisons,
        comparison_table=_comparison_table(content.comparisons),
        run_table=_run_table(content.rows),
        figures=content.figures,
        drawn=drawn,
    )


def number(value: float | None) -> str:
    """Return a number with the digits that matter; a dash for None."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _with_interval(value: float | None, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(number(value))
    return Cell(f"{number(value)} [{number(interval.low)}, {number(interval.high)}]")


def _heads(*texts: str, words: int) -> list[Head]:
    """Return heads of which the first `words` are of columns of text."""
    return [Head(text, position >= words) for position, text in enumerate(texts)]


def _score_table(rows: Sequence[Row]) -> Table:
    has_normalized = any(row.normalized is not None for row in rows)
    has_paper = any(row.paper is not None for row in rows)
    texts = ["Game", "Setting", "Runs", "Mean", "Std", "IQM", "Last quarter"]
    texts += ["Normalized"] * has_normalized + ["Paper"] * has_paper
    lines = []
    for row in rows:
        count = f"{len(row.values)} of {len(row.scores)}" if len(row.values) < len(row.scores) else str(len(row.values))
        line = [
            Cell(row.game),
            Cell(row.setting),
            Cell(count, warns=len(row.values) < len(row.scores)),
            _with_interval(row.mean, row.mean_interval),
            Cell(number(row.std)),
            _with_interval(row.iqm, row.iqm_interval),
            Cell(number(row.last_quarter)),
        ]
        if has_normalized:
            line.append(Cell(NONE if row.normalized is None else f"{row.normalized:.3f}"))
        if has_paper:
            line.append(Cell(NONE if row.paper is None else f"{row.paper.mean:,.1f} ± {row.paper.std:,.1f}"))
        lines.append(line)
    return Table(_heads(*texts, words=2), lines)


def _aggregate_table(found: Sequence[Aggregate]) -> Table:
    lines = [
        [
            Cell(each.setting),
            Cell(str(each.games)),
            Cell(str(each.runs)),
            _with_interval(each.mean, each.mean_interval),
            _with_interval(each.iqm, each.iqm_interval),
        ]
        for each in found
    ]
    return Table(_heads("Setting", "Games", "Runs", "Mean", "IQM", words=1), lines)


def _comparison_table(found: Sequence[Comparison]) -> Table:
    lines = [
        [
            Cell(each.games[0] if len(each.games) == 1 else f"all {len(each.games)} games"),
            Cell(each.first),
            Cell(each.second),
            Cell("paired" if each.found.paired else "each with each"),
            _with_interval(each.found.probability, each.found.interval),
        ]
        for each in found
    ]
    return Table(_heads("Games", "First", "Second", "Runs", "Probability", words=4), lines)


def _run_table(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        for score in row.scores:
            run = score.run
            status = run.status if run.is_finished else f"unfinished ({run.status})"
            lines.append(
                [
                    Cell(row.game),
                    Cell(row.setting),
                    Cell(str(run.seed)),
                    Cell(f"{run.last_step:,} of {run.total_steps:,}"),
                    Cell(NONE if run.freeze_step is None else f"{run.freeze_step:,}"),
                    Cell(score.why_none, warns=True) if score.mean is None else Cell(number(score.mean)),
                    Cell(NONE if score.step is None else f"{score.step:,}"),
                    Cell(status, warns=not run.is_finished),
                    Cell(str(run.path)),
                ]
            )
    heads = [
        *(Head(text) for text in ("Game", "Setting")),
        *(Head(text, number=True) for text in ("Seed", "Steps", "Freeze", "Score", "Evaluated at")),
        *(Head(text) for text in ("Status", "Folder")),
    ]
    return Table(heads, lines)
