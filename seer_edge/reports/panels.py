"""A figure as data: panels, and the series of each. `drawing.py` draws them, and each has a CSV file."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEUTRAL = -1
"""The colour of what belongs to no setting: the paper's figures and the budget."""


@dataclass(frozen=True)
class Series:
    """Points of one line, or of one group of dots.

    Attributes:
        label: what is shown.
        style: "run" (a thin line), "mean" (a thick line, with its band if there is one), "points" (with error bars),
            "step", "dashed", "dots" (one per seed) or "interval" (a mean with its interval).
        color: number of the colour, or NEUTRAL.
        x, y: the points. For "dots" and "interval" `y` is the place on the axis of settings.
        low, high: ends of the band or the bars; empty for none. Of "dots" and "interval" along x, else along y.

    """

    label: str
    style: str
    color: int
    x: NDArray[Any]
    y: NDArray[Any]
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: the game, and the setting if each has a panel.
        series: what is drawn.
        freezes: steps, seconds or FLOPs of the freeze of each run, with the colour of its setting.
        places: names of the places on the axis of settings, from the top; empty for lines.

    """

    title: str
    series: tuple[Series, ...]
    freezes: tuple[tuple[float, int], ...] = ()
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    style: str
    color: int


@dataclass(frozen=True)
class Figure:
    """A figure of the report. `name` is the name of its files."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...]

    def csv(self) -> str:
        """Return every drawn point as CSV."""
        lines: list[tuple[Any, ...]] = []
        for panel in self.panels:
            for series in panel.series:
                none = [None] * len(series.x)
                low = none if series.low is None else series.low
                high = none if series.high is None else series.high
                for x, y, bottom, top in zip(series.x, series.y, low, high, strict=True):
                    place = panel.places[round(-y)] if panel.places else y
                    lines.append((panel.title, series.label, series.style, x, place, bottom, top))
            lines += [(panel.title, self._setting(color), "freeze", x, *[None] * 3) for x, color in panel.freezes]
        return csv_text(("panel", "series", "style", "x", "y", "low", "high"), lines)

    def _setting(self, color: int) -> str:
        return next((key.label for key in self.keys if key.color == color != NEUTRAL), "")


def csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV. A cell that is None or not finite is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(map(_cell, line) for line in lines)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{value:.10g}" if np.isfinite(value) else ""
    return value  # the writer leaves the cell of None empty
