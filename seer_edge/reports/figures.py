"""The figures of a report, as data."""

from collections.abc import Mapping, Sequence

import numpy as np

from seer_edge.reports.grouping import Groups
from seer_edge.reports.panels import NEUTRAL, Figure, Key, Panel, Series
from seer_edge.reports.reading import CPU_SECONDS, FLOPS, SECONDS, STEPS, Column, Run
from seer_edge.reports.reference_scores import PaperScore, human_normalized
from seer_edge.reports.scores import Row, last_quarter_return
from seer_edge.reports.statistics import Interval, mean_interval

RECENT_STEPS, RECENT_EPISODES_MIN = 10_000, 5
"""A training return is the mean of the episodes of the last 10,000 steps, and of at least five."""
MEAN_POINTS = 200
LEDGER = (
    ("memory/observation_bytes", "observations"),
    ("memory/workspace_bytes", "workspace"),
    ("memory/anon_bytes", "anonymous memory"),
    ("memory/rss_bytes", "resident memory"),
)
REAL_TIME = (
    ("control/late_p99_ms", "lateness of ticks, p99"),
    ("control/late_worst_ms", "lateness of ticks, worst"),
    ("control/age_p99_ms", "frame to action, p99"),
)


def all_figures(groups: Groups, rows: Sequence[Row], point: str) -> list[Figure]:
    """Return the figures that the runs have values for."""
    colors = colors_of(groups)
    figures = [*_return_figures(groups, colors), _memory(groups), _capacity(groups, colors), _real_time(groups)]
    figures += [_scores(rows, colors, point), _last_quarter(rows, colors), _normalized(rows, colors, point)]
    return [figure for figure in figures if any(len(series.x) for panel in figure.panels for series in panel.series)]


def colors_of(groups: Groups) -> Mapping[str, int]:
    """Return the number of the colour of each setting, the same in every game."""
    names = dict.fromkeys(name for settings in groups.values() for name in settings)
    return {name: number for number, name in enumerate(names)}


# --- lines -------------------------------------------------------------------------------------------------------


def _return_figures(groups: Groups, colors: Mapping[str, int]) -> list[Figure]:
    runs = [run for settings in groups.values() for found in settings.values() for run in found]
    has_cpu = all(run.has(CPU_SECONDS) for run in runs if len(run.steps))
    time = ("CPU seconds", CPU_SECONDS) if has_cpu else ("seconds of training (wall clock)", SECONDS)
    note = "" if has_cpu else " Some of these runs did not record CPU seconds, so the axis is wall-clock time."
    caption = (
        "Points: evaluations, with the standard deviation of their episodes. Thin lines: training return of each run, "
        f"mean of the episodes of the last {RECENT_STEPS:,} steps and of at least {RECENT_EPISODES_MIN}. Thick line "
        "and band: mean and standard deviation over runs. Dotted: the freeze."
    )
    axes = (
        ("returns_steps", "steps", "agent steps", STEPS, ""),
        ("returns_seconds", time[0].split(" (")[0], time[0], time[1], note),
        ("returns_flops", "FLOPs", "FLOPs, estimated as in the paper's Appendix C", FLOPS, ""),
    )
    keys = _setting_keys(colors, "mean")
    return [
        Figure(
            name,
            f"Return over {what}",
            caption + more,
            label,
            "return",
            tuple(_return_panel(game, settings, column, colors) for game, settings in groups.items()),
            keys,
        )
        for name, what, label, column, more in axes
    ]


def _setting_keys(colors: Mapping[str, int], style: str) -> tuple[Key, ...]:
    return tuple(Key(name, style, color) for name, color in colors.items())


def _return_panel(game: str, settings: Mapping[str, Sequence[Run]], column: str, colors: Mapping[str, int]) -> Panel:
    series, freezes = [], []
    for name, runs in settings.items():
        lines = [(run, *training_return(run, column)) for run in runs]
        for run, x, y in lines:
            series.append(Series(f"{name}, seed {run.seed}, training", "run", colors[name], x, y))
        series += mean_line(name, [(x, y) for _, x, y in lines if len(x)], colors[name])
        series += [_evaluation_points(name, run, column, colors[name]) for run in runs if len(run.evaluations.steps)]
        freezes += [(at, colors[name]) for run in runs if (at := _freeze_place(run, column)) is not None]
    return Panel(game, tuple(series), _freeze_marks(freezes))


def _freeze_marks(freezes: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    """Return each place once. One that several settings share has no setting's colour."""
    colors: dict[float, set[int]] = {}
    for place, color in freezes:
        colors.setdefault(place, set()).add(color)
    return tuple((place, found.pop() if len(found) == 1 else NEUTRAL) for place, found in colors.items())


def _evaluation_points(name: str, run: Run, column: str, color: int) -> Series:
    found = run.evaluations
    x = run.at_steps(column, found.steps)
    label = f"{name}, seed {run.seed}, evaluation"
    return Series(label, "points", color, x, found.means, found.means - found.stds, found.means + found.stds)


def training_return(run: Run, column: str) -> tuple[Column, Column]:
    """Return the training return after each episode; over log intervals for runs without `episodes.csv`."""
    if run.episodes is None:
        y = run.column("rollout/ep_rew_mean")
        x = run.column(column)
        known = np.isfinite(x) & np.isfinite(y)
        return x[known], y[known]
    ends, means = run.episodes.steps, recent_means(run.episodes.steps, run.episodes.returns)
    x = run.at_steps(column, ends)
    known = np.isfinite(x)
    return x[known], means[known]


def recent_means(ends: Column, returns: Column) -> Column:
    """Return the training return after each episode, from the step at which each ended and its return."""
    first = np.searchsorted(ends, ends - RECENT_STEPS, side="right")
    first = np.maximum(0, np.minimum(first, np.arange(len(ends)) - RECENT_EPISODES_MIN + 1))
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    means: Column = (sums[1:] - sums[first]) / (np.arange(1, len(ends) + 1) - first)
    return means


def on_one_grid(lines: Sequence[tuple[Column, Column]]) -> tuple[Column, Column] | None:
    """Return abscissae where all lines have values, and the values `[lines, n]` there; None if there are none."""
    begin, end = max((x[0] for x, _ in lines), default=0.0), min((x[-1] for x, _ in lines), default=0.0)
    if begin >= end:
        return None
    grid: Column = np.linspace(begin, end, MEAN_POINTS)
    return grid, np.array([np.interp(grid, x, y) for x, y in lines])


def mean_line(name: str, lines: Sequence[tuple[Column, Column]], color: int) -> list[Series]:
    """Return mean and standard deviation where at least two runs have values."""
    shared = on_one_grid(lines) if len(lines) > 1 else None
    if shared is None:
        return []
    grid, values = shared
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    return [Series(f"{name}, mean of {len(lines)} runs", "mean", color, grid, mean, mean - std, mean + std)]


def _freeze_place(run: Run, column: str) -> float | None:
    if run.freeze_step is None:
        return None
    place = float(run.at_steps(column, np.array([run.freeze_step], dtype=float))[0])
    return place if np.isfinite(place) else None


def _memory(groups: Groups) -> Figure:
    return Figure(
        "memory",
        "Memory by ledger line",
        "One line for each run. Resident and anonymous memory are those of the whole process, with Python and PyTorch. "
        "Dashed: the budget, which bounds the observations.",
        "agent steps",
        "MB",
        _quantities(groups, LEDGER, 1e6, budget=True),
        (*_quantity_keys(LEDGER), Key("budget", "dashed", NEUTRAL)),
    )


def _real_time(groups: Groups) -> Figure:
    return Figure(
        "real_time",
        "Control in real time",
        "One line for each run with --hz, of each log interval: how late ticks came, and how long an observation took "
        "to become an action.",
        "agent steps",
        "ms",
        _quantities(groups, REAL_TIME, 1.0),
        _quantity_keys(REAL_TIME),
    )


Quantities = Sequence[tuple[str, str]]
"""Columns of `progress.csv`, and what they are called."""


def _quantities(groups: Groups, shown: Quantities, unit: float, *, budget: bool = False) -> tuple[Panel, ...]:
    """Return a panel of each setting with a line of each column and run."""
    panels = []
    for game, settings in groups.items():
        for name, runs in settings.items():
            series = [
                Series(f"{label}, seed {run.seed}", "run", number, *_finite(run, column, unit))
                for run in runs
                for number, (column, label) in enumerate(shown)
            ]
            if budget:
                series += [Series("budget", "dashed", NEUTRAL, *_finite(runs[0], "memory/budget_bytes", unit))]
            freezes = tuple(dict.fromkeys((float(run.freeze_step), NEUTRAL) for run in runs if run.freeze_step))
            panels.append(Panel(f"{game}: {name}" if len(settings) > 1 else game, tuple(series), freezes))
    return tuple(panels)


def _quantity_keys(shown: Quantities) -> tuple[Key, ...]:
    return tuple(Key(label, "run", number) for number, (_, label) in enumerate(shown))


def _finite(run: Run, column: str, unit: float) -> tuple[Column, Column]:
    values = run.column(column)
    known = np.isfinite(values)
    return run.steps[known], values[known] / unit


def _capacity(groups: Groups, colors: Mapping[str, int]) -> Figure:
    panels = []
    for game, settings in groups.items():
        series, freezes = [], []
        for name, runs in settings.items():
            for run in runs:
                rows, room = _finite(run, "replay/rows", 1), _finite(run, "replay/capacity", 1)
                series.append(Series(f"{name}, seed {run.seed}, rows", "run", colors[name], *rows))
                series.append(Series(f"{name}, seed {run.seed}, capacity", "step", colors[name], *room))
            freezes += [(float(run.freeze_step), colors[name]) for run in runs if run.freeze_step is not None]
        panels.append(Panel(game, tuple(series), _freeze_marks(freezes)))
    return Figure(
        "capacity",
        "Rows in the replay, and its capacity",
        "Solid: rows held. Dashed: rows that fit in the budget. Dotted: the freeze. Equal lines overlap.",
        "agent steps",
        "rows",
        tuple(panels),
        _setting_keys(colors, "run"),
    )


# --- dots --------------------------------------------------------------------------------------------------------

Dots = tuple[str, int, Sequence[float], Interval | None, PaperScore | None]
"""Of one place: its name, its colour, a value for each run, the interval of their mean, the paper's score."""


def _dot_panel(title: str, found: Sequence[Dots]) -> Panel:
    series = []
    for place, (name, color, values, interval, paper) in enumerate(found):
        # Runs with equal scores stay visible beside each other.
        y = np.full(len(values), -float(place)) + (np.linspace(0.16, -0.16, len(values)) if len(values) > 1 else 0)
        series.append(Series(name, "dots", color, np.array(values, dtype=float), y))
        if len(values) > 1:
            mean = np.array([np.mean(values)])
            low, high = (mean, mean) if interval is None else (np.array([interval.low]), np.array([interval.high]))
            series.append(Series(f"{name}, mean", "interval", color, mean, np.array([-place - 0.3]), low, high))
        if paper is not None:
            x = np.array([paper.mean])
            ends = (x - paper.std, x + paper.std)
            series.append(Series(f"{name}, paper", "paper", NEUTRAL, x, np.array([-place + 0.3]), *ends))
    return Panel(title, tuple(series), places=tuple(name for name, *_ in found))


def _dot_keys(colors: Mapping[str, int], *, paper: bool) -> tuple[Key, ...]:
    return (*_setting_keys(colors, "dots"), *([Key("the paper, mean ± std", "paper", NEUTRAL)] if paper else []))


def _by_game(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    games: dict[str, list[Row]] = {}
    for row in rows:
        games.setdefault(row.game, []).append(row)
    return games


def _scores(rows: Sequence[Row], colors: Mapping[str, int], point: str) -> Figure:
    panels = [
        _dot_panel(
            game, [(row.setting, colors[row.setting], row.values, row.mean_interval, row.paper) for row in found]
        )
        for game, found in _by_game(rows).items()
        if any(row.values for row in found)
    ]
    has_paper = any(row.paper is not None for row in rows)
    return Figure(
        "scores",
        f"Score of each seed {point}",
        "Each dot is the newest evaluation of one run up to that point. Bar: mean and its 95 % bootstrap interval."
        + (" Diamond: the paper's Table 1." if has_paper else ""),
        "evaluation return",
        "",
        tuple(panels),
        _dot_keys(colors, paper=has_paper),
    )


def _last_quarter(rows: Sequence[Row], colors: Mapping[str, int]) -> Figure:
    panels = []
    for game, found in _by_game(rows).items():
        dots: list[Dots] = []
        for row in found:
            values = [value for score in row.scores if (value := last_quarter_return(score.run)) is not None]
            dots.append((row.setting, colors[row.setting], values, mean_interval([values]) if values else None, None))
        if any(values for _, _, values, _, _ in dots):
            panels.append(_dot_panel(game, dots))
    return Figure(
        "last_quarter",
        "Training return of the last quarter",
        "Each dot is the mean return of the training episodes that one run finished in the last quarter of its steps. "
        "These episodes explore. Bar: mean and its 95 % bootstrap interval.",
        "training return",
        "",
        tuple(panels),
        _dot_keys(colors, paper=False),
    )


def _normalized(rows: Sequence[Row], colors: Mapping[str, int], point: str) -> Figure:
    panels = []
    for game, found in _by_game(rows).items():
        dots: list[Dots] = []
        for row in found:
            values = [value for score in row.values if (value := human_normalized(game, score)) is not None]
            dots.append((row.setting, colors[row.setting], values, mean_interval([values]) if values else None, None))
        if any(values for _, _, values, _, _ in dots):
            panels.append(_dot_panel(game, dots))
    return Figure(
        "normalized",
        f"Human-normalized score {point}",
        "0 is random play and 1 a human tester. Each dot is one run. Bar: mean and its 95 % bootstrap interval.",
        "human-normalized score",
        "",
        tuple(panels),
        _dot_keys(colors, paper=False),
    )
