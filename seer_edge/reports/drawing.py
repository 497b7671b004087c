"""Draw panels with matplotlib: as SVG whose colours the page chooses, and whole figures as PNG."""

import io
import math
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.reports.panels import NEUTRAL, Figure, Key, Panel, Series
from seer_runtime import durable

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#4b4bb5")
"""Light colours that the colour-blind can distinguish, after Okabe and Ito; `page.html` has the dark ones."""
INK, GRID, PAPER = "#1d2733", "#d9dee4", "#6b7683"
VARIABLES = {INK: "--ink", GRID: "--grid", PAPER: "--neutral"} | {
    color: f"--color-{number}" for number, color in enumerate(PALETTE)
}
DASHES = ("-", "--", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
PANEL_INCHES, DOT_ROW_INCHES = (4.6, 3.0), 0.42
TITLE_CHARACTERS, LABEL_CHARACTERS = 40, 24
PNG_DPI, PNG_COLUMNS = 130, 3
CHARACTERS_PER_INCH, KEY_CHARACTERS = 14, 8
"""Of the text of a legend, and the room that a key takes beside its text."""
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name of a run or a setting may have dollar signs
    "font.size": 9,
    "axes.edgecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": PAPER,
    "ytick.color": PAPER,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Look:
    """How a setting is drawn.

    Colours repeat. Then lines have other dashes, and points other markers, which are hollow every second time.

    Attributes:
        color: as in PALETTE, or PAPER.
        marker: index of MARKERS.
        hollow: whether the marker is not filled.
        dash: index of DASHES.

    """

    color: str
    marker: int
    hollow: bool
    dash: int

    @property
    def point(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for points."""
        face = "none" if self.hollow else self.color
        return {"color": self.color, "marker": MARKERS[self.marker], "markerfacecolor": face}


def look_of(number: int) -> Look:
    """Return the look of the setting with this number."""
    if number == NEUTRAL:
        return Look(PAPER, marker=3, hollow=False, dash=0)
    times, place = divmod(number, len(PALETTE))
    marker = (place + times) % len(MARKERS)
    return Look(PALETTE[place], marker, hollow=times % 2 == 1, dash=times % len(DASHES))


def panel_svg(figure: Figure, panel: Panel) -> str:
    """Return one panel as an SVG element without references to anything outside it."""
    plt = pyplot()
    with plt.rc_context({**STYLE, "svg.hashsalt": f"{figure.name}/{panel.title}"}):
        drawn, axes = plt.subplots(figsize=(PANEL_INCHES[0], _height(panel)), layout="constrained")
        _draw(axes, figure, panel)
        text = io.StringIO()
        drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(drawn)
    return _inline(text.getvalue(), f"{figure.title}, {panel.title}")


def _inline(svg: str, label: str) -> str:
    """Strip what only a file of its own needs, let the page choose colours and fonts, and drop ids without a use."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None  # matplotlib writes one
    name = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    svg = f'<svg {box[0]} role="img" aria-label="{name}">{rest}'
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(?<=px) [^;\"]*?sans-serif", " system-ui, sans-serif", svg)
    for color, variable in VARIABLES.items():
        svg = re.sub(color, f"var({variable})", svg, flags=re.IGNORECASE)
    return re.sub(r"\n\s*", "\n", svg)


def write_png(figure: Figure, path: Path) -> None:
    """Write all panels of a figure as one picture. Raises OSError if it cannot be written."""
    plt = pyplot()
    columns = min(PNG_COLUMNS, len(figure.panels))
    lines = math.ceil(len(figure.panels) / columns)
    height = max(map(_height, figure.panels))
    with plt.rc_context(STYLE):
        drawn, grid = plt.subplots(
            lines,
            columns,
            figsize=(PANEL_INCHES[0] * columns, height * lines + 0.7),
            layout="constrained",
            squeeze=False,
        )
        for axes, panel in zip(grid.flat, figure.panels, strict=False):
            _draw(axes, figure, panel)
        for axes in grid.flat[len(figure.panels) :]:
            axes.set_axis_off()
        drawn.suptitle(figure.title)
        handles = [_handle(key) for key in figure.keys]
        longest = max((len(key.label) for key in figure.keys), default=0) + KEY_CHARACTERS
        fitting = max(1, int(PANEL_INCHES[0] * columns * CHARACTERS_PER_INCH) // longest)
        ncols = min(3, len(handles), fitting)
        drawn.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False)
        save_png(drawn, path)


def save_png(drawn: Any, path: Path) -> None:
    """Write a figure of matplotlib to `path`, atomically, and close it. Raises OSError."""
    picture = io.BytesIO()
    try:
        drawn.savefig(picture, format="png", dpi=PNG_DPI)
    finally:
        pyplot().close(drawn)
    durable.write_atomic(path, picture.getvalue())


def pyplot() -> Any:
    """Import matplotlib, without a display, and return its `pyplot`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _handle(key: Key) -> Any:
    from matplotlib.lines import Line2D

    look = look_of(key.color)
    if key.style in ("dots", "paper"):
        return Line2D([], [], **look.point, linestyle="", label=key.label)
    dash: Any = (0, (4, 3)) if key.style == "dashed" else DASHES[look.dash]
    return Line2D([], [], color=look.color, linestyle=dash, label=key.label)


def _height(panel: Panel) -> float:
    return 1.0 + DOT_ROW_INCHES * len(panel.places) if panel.places else PANEL_INCHES[1]


def _draw(axes: Any, figure: Figure, panel: Panel) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, StrMethodFormatter

    axes.set_title(textwrap.fill(panel.title, TITLE_CHARACTERS), loc="left")
    axes.set_xlabel(figure.x_label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for series in panel.series:
        _draw_series(axes, series)
    for place, color in panel.freezes:
        axes.axvline(place, color=look_of(color).color, linestyle=":", linewidth=1.4)
    if panel.places:
        names = ["\n".join(textwrap.wrap(place, LABEL_CHARACTERS)) for place in panel.places]
        axes.set_yticks([-float(place) for place in range(len(names))], names)
        axes.set_ylim(-len(panel.places) + 0.45, 0.55)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.08)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        return
    axes.set_ylabel(figure.y_label)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    large = EngFormatter(sep="")
    for axis in (axes.xaxis, axes.yaxis):  # without milli and micro, which are unusual for returns
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}" if abs(value) < 1e3 else large(value)))
    if figure.name in ("memory", "capacity"):
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def _draw_series(axes: Any, series: Series) -> None:
    look = look_of(series.color)
    color, dash = look.color, DASHES[look.dash]
    x, y = series.x, series.y
    if series.style == "run":
        axes.plot(x, y, color=color, linewidth=1.1, alpha=0.75, linestyle=dash)
    elif series.style == "mean":
        if series.low is not None:
            axes.fill_between(x, series.low, series.high, color=color, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=color, linewidth=2.2, linestyle=dash)
    elif series.style == "step":
        axes.step(x, y, where="post", color=color, linewidth=1.1, linestyle=(0, (4, 3)))
    elif series.style == "dashed":
        axes.plot(x, y, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
    elif series.style == "points":
        bars = [y - series.low, series.high - y]
        axes.errorbar(x, y, yerr=bars, **look.point, linestyle="", markersize=4.5, elinewidth=1, capsize=2)
    elif series.style == "dots":
        axes.plot(x, y, **look.point, linestyle="", markersize=5, alpha=0.85)
    else:  # "interval" and "paper", which are along x
        bars = [x - series.low, series.high - x]
        ends = {"color": color, "marker": "|"} if series.style == "interval" else look.point
        axes.errorbar(
            x, y, xerr=bars, **ends, linestyle="", markersize=7 if ends["marker"] == "|" else 4, elinewidth=1.6
        )
