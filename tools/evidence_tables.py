"""The tables of a page of evidence, in Markdown: scores, differences, spreads and regrets. See evidence.py."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from evidence_arms import (
    ARMS,
    MAIN_ARMS,
    MEASURES,
    Arms,
    Games,
    Result,
    fixed_steps,
    label,
    published,
)

PAIRS = (
    ("paper", "bounded"),
    ("uint8", "whole"),
    ("uint4", "whole"),
    ("uint8", "paper"),
    ("uint8", "bounded"),
    ("auto", "paper"),
    ("prioritized", "whole"),
    ("n10", "whole"),
    ("dopamine", "n10"),
)
SEEDS_MIN = 2
"""Of a deviation between seeds."""


def sections(games: Games) -> list[tuple[str, str, str]]:
    """Return title, explanation and table of each section that has lines."""
    found = [(game, others(game, arms), scores(arms)) for game, arms in games.items()]
    found += [
        ("All games", "Human-normalized scores of the main arms that all games have.", aggregates(games)),
        ("Differences", "Mean over seeds, with its standard error.", differences(games)),
        ("Spread", "Standard deviations.", spreads(games)),
        (
            "The automatic freeze",
            "Regret: the best fixed step less the automatic one. Mean of all: of the fixed steps.",
            regrets(games),
        ),
        (
            "The automatic freeze over seeds",
            "Returns: mean and standard deviation between seeds. The best fixed step is the one with the best mean. "
            "Regret: its return less that of auto, mean over seeds with its standard error.",
            regrets_over_seeds(games),
        ),
    ]
    return [section for section in found if section[2]]


def others(game: str, arms: Arms) -> str:
    """Return what others report of a game; empty if they do not have it, or the runs have another length."""
    from seer_edge.reports.reference_scores import ATARI

    known = published(game, arms)
    if known is None:
        return ""
    returns = [f"{value:,} by {name}" for value, name in zip(known.returns[game], known.publishers, strict=True)]
    return (
        f"Published for {known.agent} after {known.timesteps:,} steps: {' and '.join(returns)}. "
        f"Random play: {ATARI[game][0]:,.0f}."
    )


def scores(arms: Arms) -> str:
    """Return the table of one game: each arm's scores by seed, mean, and cost."""
    from seer_edge.reports.statistics import mean_interval

    header = ("Arm", "Frozen at", "Seeds", "Runs", *MEASURES.values(), "CPU seconds", "Rows held", "Peak memory, MB")
    lines = []
    for arm in arms.values():
        cells = []
        for measure in MEASURES:
            seeds = list(arm.seeds(measure).values())
            interval = mean_interval([seeds]) if seeds else None
            text = f"{statistics.fmean(seeds):,.0f}" if seeds else "-"
            text += f" [{interval.low:,.0f}, {interval.high:,.0f}]" if interval else ""
            some = 0 < len(seeds) < len(arm.by_seed)
            cells.append(text + (f" ({len(seeds)} of {len(arm.by_seed)} seeds)" if some else ""))
        lines.append(
            (
                label(arm.name),
                _freeze_steps(arm.results),
                f"{len(arm.by_seed)}",
                f"{len(arm.results)}",
                *cells,
                f"{statistics.fmean(result.cpu_seconds for result in arm.results):,.0f}",
                f"{statistics.fmean(result.rows for result in arm.results):,.0f}",
                f"{statistics.fmean(result.rss_peak_bytes for result in arm.results) / 1e6:,.0f}",
            )
        )
    return _table(header, lines)


def _freeze_steps(results: Sequence[Result]) -> str:
    steps = sorted({result.freeze_step for result in results if result.freeze_step is not None})
    return ", ".join(f"{step:,}" for step in steps) or "-"


def differences(games: Games) -> str:
    """Return the table of the differences between arms of the same seed."""
    lines = []
    for first, second in PAIRS:
        for game, arms in games.items():
            if first in arms and second in arms:
                cells = [_difference(arms[first].seeds(name), arms[second].seeds(name)) for name in MEASURES]
                lines.append((f"{first} - {second}", game, *cells))
    return _table(("Arms", "Game", *MEASURES.values()), lines)


def _difference(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    values = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:+,.0f} (one seed)"
    return (
        f"{statistics.fmean(values):+,.0f} ± {statistics.stdev(values) / len(values) ** 0.5:,.0f} ({len(values)} seeds)"
    )


def aggregates(games: Games) -> str:
    """Return the table of human-normalized scores of the main arms that all games have which a human has played."""
    from seer_edge.reports.reference_scores import human_normalized
    from seer_edge.reports.statistics import interquartile_interval, interquartile_mean, mean_interval

    def cell(value: float, interval: Any) -> str:
        return f"{value:.2f}" + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else "")

    played = {game: arms for game, arms in games.items() if human_normalized(game, 0.0) is not None}
    common = [
        name
        for name in MAIN_ARMS
        if all(name in arms and arms[name].seeds(measure) for arms in played.values() for measure in MEASURES)
    ]
    lines = []
    for name in common if min(len(played), len(common)) > 1 else ():
        cells = []
        for measure in MEASURES:
            strata = [
                [cast("float", human_normalized(game, value)) for value in arms[name].seeds(measure).values()]
                for game, arms in played.items()
            ]
            joined = np.concatenate(strata)
            cells += [
                cell(float(np.mean(joined)), mean_interval(strata)),
                cell(float(interquartile_mean(joined)), interquartile_interval(strata)),
            ]
        lines.append((ARMS[name], f"{len(joined)}", *cells))
    names = [f"{title}: {what}" for title in MEASURES.values() for what in ("mean", "interquartile mean")]
    return _table(("Arm", "Seeds and games", *names), lines)


def spreads(games: Games) -> str:
    """Return the table of standard deviations between seeds, and between continuations of one seed."""
    lines = []
    for game, arms in games.items():
        for arm in arms.values():
            cells = []
            for measure in MEASURES:
                values = arm.values(measure)
                seeds = list(arm.seeds(measure).values())
                between = f"{statistics.stdev(seeds):,.0f}" if len(seeds) > 1 else "-"
                repeated = [statistics.variance(found) for found in values.values() if len(found) > 1]
                within = f"{statistics.fmean(repeated) ** 0.5:,.0f}" if repeated else "-"
                cells += [between, within]
            if any(cell != "-" for cell in cells):
                lines.append((game, label(arm.name), *cells))
    names = [f"{name}: {what}" for name in MEASURES.values() for what in ("between seeds", "between continuations")]
    return _table(("Game", "Arm", *names), lines)


def regrets(games: Games) -> str:
    """Return the table of `--freeze-at auto`: its step, its return, the best fixed step, and the difference."""
    lines = []
    for game, arms in games.items():
        for seed, results in arms["auto"].by_seed.items() if "auto" in arms else ():
            for name, label_of_measure in MEASURES.items():
                fixed = {arm: arms[arm].seeds(name).get(seed) for arm in fixed_steps(arms)}
                known = {arm: value for arm, value in fixed.items() if value is not None}
                own = arms["auto"].seeds(name).get(seed)
                if own is None or not known:
                    continue
                best = max(known, key=lambda arm: known[arm])
                lines.append(
                    (
                        game,
                        f"{seed}",
                        label_of_measure,
                        _freeze_steps(results) if results[0].freeze_step else "never",
                        f"{own:,.0f}",
                        _freeze_steps(arms[best].by_seed[seed]),
                        f"{known[best]:,.0f}",
                        f"{known[best] - own:+,.0f}",
                        f"{statistics.fmean(known.values()):,.0f}",
                    )
                )
    header = (
        "Game",
        "Seed",
        "Measure",
        "Step of auto",
        "Return",
        "Best fixed step",
        "Its return",
        "Regret",
        "Mean of all",
    )
    return _table(header, lines)


def regrets_over_seeds(games: Games) -> str:
    """Return the table of `--freeze-at auto` beside the fixed step whose mean over the same seeds is best."""
    lines = []
    for game, arms in games.items():
        for name, label_of_measure in MEASURES.items() if "auto" in arms else ():
            own = arms["auto"].seeds(name)
            fixed = {arm: arms[arm].seeds(name) for arm in fixed_steps(arms)}
            full = [arms[arm] for arm, values in fixed.items() if values.keys() >= own.keys()]
            if len(own) < SEEDS_MIN or not full:
                continue
            best = max(full, key=lambda arm: statistics.fmean(arm.seeds(name)[seed] for seed in own))
            others = {seed: best.seeds(name)[seed] for seed in own}
            lines.append(
                (
                    game,
                    label_of_measure,
                    f"{len(own)}",
                    _mean_and_deviation(own),
                    _freeze_steps(best.results),
                    _mean_and_deviation(others),
                    _difference(others, own),
                )
            )
    header = ("Game", "Measure", "Seeds", "Return of auto", "Best fixed step", "Its return", "Regret")
    return _table(header, lines)


def _mean_and_deviation(values: Mapping[int, float]) -> str:
    return f"{statistics.fmean(values.values()):,.0f} ± {statistics.stdev(values.values()):,.0f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))
