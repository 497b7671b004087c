"""A figure as data: panels, and the series of each. `drawing.py` draws them, and each has a CSV file."""

import csv
import io
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
        style: "run" (a thin line), "mean" (a thick line with its band), "points" (with error bars), "step", "dashed",
            "dots" (one per seed) or "interval" (a mean with its interval).
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
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["panel", "series", "style", "x", "y", "low", "high"])
        for panel in self.panels:
            for series in panel.series:
                none = [None] * len(series.x)
                low = none if series.low is None else series.low
                high = none if series.high is None else series.high
                for x, y, bottom, top in zip(series.x, series.y, low, high, strict=True):
                    place = panel.places[round(-y)] if panel.places else _cell(y)
                    writer.writerow(
                        [panel.title, series.label, series.style, _cell(x), place, _cell(bottom), _cell(top)]
                    )
            for x, color in panel.freezes:
                writer.writerow([panel.title, self._setting(color), "freeze", _cell(x), "", "", ""])
        return text.getvalue()

    def _setting(self, color: int) -> str:
        return next((key.label for key in self.keys if key.color == color), "")


def _cell(value: Any) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.10g}"
