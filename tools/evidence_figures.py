"""The figures of a page of evidence, as PNG and CSV. See evidence.py."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from evidence_arms import AXES, MAIN_ARMS, MEASURES, Arm, Arms, Curve, Games, label, order, published, random_play

CURVES_MAX = 6
"""Arms of a game in the figures of curves. If a game has more, only the main arms are shown."""
RIVALS = ("stream", "sb3")
ABOUT_CURVES = (
    "Training games: mean of those of the last 10,000 steps, and of at least five. Thin lines: seeds. Thick line: "
    "their mean. A fork begins where its parent was left."
)


def draw(games: Games, folder: Path) -> list[Any]:
    """Write the figures as PNG and CSV, and return them."""
    from seer_edge.reports.drawing import write_png

    names = sorted({name for arms in games.values() for name in arms}, key=order)
    colors = {name: number for number, name in enumerate(names)}
    figures = [
        *(_dots(name, title, games, colors) for name, title in MEASURES.items()),
        *(_curves(name, x_label, games, colors) for name, x_label in AXES.items()),
        _costs(games, colors),
    ]
    for figure in figures:
        write_png(figure, folder / f"{figure.name}.png")
        (folder / f"{figure.name}.csv").write_text(figure.csv())
    return figures


def _dots(name: str, title: str, games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.panels import Figure, Panel, Series

    panels = []
    for game, arms in games.items():
        series: list[Any] = []
        places: list[str] = []
        for arm in arms.values():
            x = np.array([value for values in arm.values(name).values() for value in values.values()])
            series.append(Series(arm.name, "dots", colors[arm.name], x, _at(len(places), x)))
            seeds = list(arm.seeds(name).values())
            if len(seeds) > 1:
                mean, low, high = (np.array([function(seeds)]) for function in (statistics.fmean, min, max))
                series.append(Series(arm.name, "interval", colors[arm.name], mean, _at(len(places), mean), low, high))
            places.append(label(arm.name))
        for place, values in _yardsticks(game, arms, name).items():
            x = np.array(values)
            series.append(_neutral(place.split(",")[0], x, _at(len(places), x)))
            places.append(place)
        panels.append(Panel(game, tuple(series), places=tuple(places)))
    caption = "Dots: runs, also several continuations of one seed. Bar: mean and range of the seeds' means."
    return Figure(name, f"{title}: mean return", caption, "return", "", tuple(panels), ())


def _at(place: int, x: Any) -> Any:
    return np.full(len(x), -float(place))


def _neutral(name: str, x: Any, y: Any, style: str = "dots") -> Any:
    from seer_edge.reports.panels import NEUTRAL, Series

    return Series(name, style, NEUTRAL, x, y)


def _yardsticks(game: str, arms: Arms, measure: str) -> dict[str, list[float]]:
    """Return what is known from elsewhere: returns that others have published, and that of random play."""
    known, random = published(game, arms), random_play(game)
    found: dict[str, list[float]] = {}
    if measure == "evaluation" and known is not None:
        found[f"published, {known.agent}"] = [float(value) for value in known.returns[game]]
    if random is not None:
        found["random play"] = [random]
    return found


def _curves(name: str, x_label: str, games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.panels import NEUTRAL, Figure, Key, Panel, Series

    few = all(len(arms) <= CURVES_MAX for arms in games.values())
    panels: list[Any] = []
    shown = [arm for arm in colors if few or arm in MAIN_ARMS]
    for game, arms in games.items():
        series = []
        for arm in (arms[arm] for arm in shown if arm in arms):
            lines = [line for line in map(_mean_curve, _curves_of_seeds(arm, name)) if line is not None]
            mean = _mean_curve(lines)
            if mean is None:
                continue
            series += [Series(f"{arm.name}, seed", "run", colors[arm.name], *line) for line in lines if len(lines) > 1]
            series.append(Series(arm.name, "mean", colors[arm.name], *mean))
        random = random_play(game)
        if random is not None and series:
            ends = np.array([0.0, max(float(line.x[-1]) for line in series)])
            series.append(_neutral("random play", ends, np.full(2, random), "dashed"))
        panels.append(Panel(game, tuple(series)))
    keys = tuple(Key(label(arm), "mean", colors[arm]) for arm in shown)
    if any(random_play(game) is not None for game in games):
        keys += (Key("random play", "dashed", NEUTRAL),)
    title = f"Return of training games over {x_label}"
    return Figure(name, title, ABOUT_CURVES, x_label, "return", tuple(panels), keys)


def _curves_of_seeds(arm: Arm, name: str) -> list[list[Curve]]:
    """Return the curves of each seed's continuations."""
    found = [
        [result.curves[name] for result in results.values() if name in result.curves]
        for results in arm.by_seed.values()
    ]
    return [[curve for curve in curves if len(curve[0])] for curves in found]


def _mean_curve(curves: list[Curve]) -> Curve | None:
    """Return the mean of curves where all have values; None if they share no stretch."""
    from seer_edge.reports.figures import on_one_grid

    if len(curves) == 1:
        return curves[0]
    shared = on_one_grid(curves)
    return None if shared is None else (shared[0], shared[1].mean(axis=0))


def _costs(games: Games, colors: Mapping[str, int]) -> Any:
    from seer_edge.reports.panels import Figure, Key, Panel, Series

    shown = [arm for arm in colors if len(colors) <= CURVES_MAX or arm in MAIN_ARMS or arm in RIVALS]
    panels = []
    for game, arms in games.items():
        series = []
        for arm in (arms[arm] for arm in shown if arm in arms):
            x = np.array([result.cpu_seconds for result in arm.results])
            y = np.array([result.training for result in arm.results], float)
            series.append(Series(arm.name, "dots", colors[arm.name], x, y))
        panels.append(Panel(game, tuple(series)))
    keys = tuple(Key(label(name), "dots", colors[name]) for name in shown)
    caption = "Each point is a run: its CPU seconds, and its training games of the last quarter."
    y_label = "training, last quarter: mean return"
    return Figure("cost", "Return and cost", caption, "CPU seconds", y_label, tuple(panels), keys)
