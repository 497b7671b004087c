"""The figures and tables of an analysis. Each figure has one panel for each run."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seer_edge.analysis.latents import LatentStatistics
from seer_edge.analysis.measure import Measured
from seer_edge.reports.panels import NEUTRAL, Figure, Key, Panel, Series, csv_text

Points = Iterable[tuple[int, float]]


@dataclass(frozen=True)
class AnalyzedRun:
    """A run that was measured.

    Attributes:
        label: what figures and files call it; no two runs have the same.
        measured: what was measured.
        observations: number of observations of its probe.
        frozen_at: the step of the freeze; None for never.

    """

    label: str
    measured: Measured
    observations: int
    frozen_at: int | None


def all_figures(runs: Sequence[AnalyzedRun]) -> list[Figure]:
    """Return the figures that the runs have values for."""
    layers = tuple(dict.fromkeys(name for run in runs for name in run.measured.layers))
    later = _later(runs)
    figures = [
        _figure(runs, "svcca", f"SVCCA of each layer with itself {later}", "SVCCA", layers, _svcca),
        _figure(runs, "cka", f"Linear CKA of each layer with itself {later}", "linear CKA", layers, _cka),
        _figure(runs, "attention_change", "Distance to the last attention map", "distance", layers, _change),
    ]
    codecs = tuple(dict.fromkeys(name for run in runs for found in run.measured.latents for name in found.clip_rates))
    statistics: tuple[tuple[str, str, str, Mapping[str, Callable[[LatentStatistics], float | None]]], ...] = (
        ("dead", "Dead dimensions of the latent", "dimensions", {"dead": lambda found: found.dead}),
        (
            "ranges",
            "Latent values, and the ranges of dimensions",
            "value",
            {
                "largest value": lambda found: found.high,
                "widest range": lambda found: found.widest,
                "median range": lambda found: found.median_width,
                "smallest value": lambda found: found.low,
            },
        ),
        (
            "clip_rate",
            "Clip rate of held-out observations",
            "fraction of elements",
            {name: functools.partial(_clip_rate, name) for name in codecs},
        ),
    )
    figures += [_latent_figure(runs, *parts) for parts in statistics]
    return [figure for figure in figures if any(panel.series for panel in figure.panels)]


def _clip_rate(codec: str, found: LatentStatistics) -> float | None:
    return found.clip_rates[codec]


def _later(runs: Sequence[AnalyzedRun]) -> str:
    gaps = {found.later - found.step for run in runs for found in run.measured.similarities}
    return f"{gaps.pop():,} steps later" if len(gaps) == 1 else "at a later snapshot"


def _svcca(measured: Measured, layer: str) -> Points:
    return [(found.step, found.svcca) for found in measured.similarities if found.layer == layer]


def _cka(measured: Measured, layer: str) -> Points:
    return [(found.step, found.cka) for found in measured.similarities if found.layer == layer]


def _change(measured: Measured, layer: str) -> Points:
    return [(found.step, found.distance) for found in measured.changes if found.layer == layer]


def _figure(
    runs: Sequence[AnalyzedRun],
    name: str,
    title: str,
    y_label: str,
    lines: Sequence[str],
    points: Callable[[Measured, str], Points],
) -> Figure:
    """Return a figure with one line for each name in `lines` that has points."""
    panels, seen = [], set()
    for run in runs:
        series = []
        for color, line in enumerate(lines):
            found = list(points(run.measured, line))
            if found:
                x, y = np.array(found, dtype=float).T
                series.append(Series(line, "run", color, x, y))
                seen.add(line)
        freezes = () if run.frozen_at is None else ((float(run.frozen_at), NEUTRAL),)
        panels.append(Panel(run.label, tuple(series), freezes))
    keys = tuple(Key(line, "run", color) for color, line in enumerate(lines) if line in seen)
    return Figure(name, title, "", "agent step", y_label, tuple(panels), keys)


def _latent_figure(
    runs: Sequence[AnalyzedRun],
    name: str,
    title: str,
    y_label: str,
    values: Mapping[str, Callable[[LatentStatistics], float | None]],
) -> Figure:
    def points(measured: Measured, line: str) -> Points:
        found = ((statistics.step, values[line](statistics)) for statistics in measured.latents)
        return [(step, value) for step, value in found if value is not None]

    return _figure(runs, name, title, y_label, tuple(values), points)


def similarity_csv(runs: Sequence[AnalyzedRun]) -> str:
    """Return one line for each run, layer and pair of snapshots."""
    lines = [
        (run.label, found.layer, found.step, found.later, found.rows, found.svcca, found.cka)
        for run in runs
        for found in run.measured.similarities
    ]
    return csv_text(("run", "layer", "step", "later_step", "rows", "svcca", "linear_cka"), lines)


def attention_csv(runs: Sequence[AnalyzedRun]) -> str:
    """Return one line for each run, convolutional layer and snapshot."""
    lines = [(run.label, found.layer, found.step, found.distance) for run in runs for found in run.measured.changes]
    return csv_text(("run", "layer", "step", "distance_to_last"), lines)


def latents_csv(runs: Sequence[AnalyzedRun]) -> str:
    """Return one line for each run and snapshot."""
    codecs = tuple(dict.fromkeys(name for run in runs for found in run.measured.latents for name in found.clip_rates))
    names = ("step", "dimensions", "dead", "low", "high", "mean", "std", "widest", "median_width")
    lines = [
        (run.label, *(getattr(found, name) for name in names), *(found.clip_rates.get(name) for name in codecs))
        for run in runs
        for found in run.measured.latents
    ]
    return csv_text(("run", *names, *(f"clip_rate_{name}" for name in codecs)), lines)


def maps_csv(run: AnalyzedRun, layer: str) -> str:
    """Return the attention maps of a picture, one line for each row of a map."""
    maps = run.measured.maps[layer]
    lines = [
        (step, observation, y, *maps[number, observation, y])
        for number, step in enumerate(run.measured.shown_steps)
        for observation in range(maps.shape[1])
        for y in range(maps.shape[2])
    ]
    return csv_text(("step", "observation", "y", *(f"x{x}" for x in range(maps.shape[3]))), lines)
