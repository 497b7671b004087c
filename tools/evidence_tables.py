"""The tables of a page of evidence, in Markdown: criteria, scores, differences, spreads, regrets. See evidence.py."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from evidence_arms import (
    ARMS,
    MAIN_ARMS,
    MEASURES,
    Arm,
    Arms,
    Games,
    Result,
    alike,
    is_fixed,
    label,
    published,
    random_play,
)
from evidence_compare import (
    CRITERIA,
    MAIN_MEASURES,
    NOT_JUDGED,
    SEEDS_MIN,
    SIBLINGS,
    Difference,
    best_fixed,
    compared,
    paired,
    verdict,
)

COMPARED = (
    "First arm less second arm: mean over seeds, with its standard error. For a fork and its parent, the error is that "
    "of the differences of their seeds, and it is said in how many seeds the fork is above. Other arms have nothing in "
    "common, so their errors add up. A 95 % interval is 12.7 standard errors to each side with two seeds, and 4.3 with "
    "three. By chance alone, a difference is larger than its standard error in half of all cases with two seeds, and "
    "in two of five with three."
)
COMPARED_SIBLINGS = (
    " The runs of {} with one seed are forks of one checkpoint, so their error is that between continuations. Only "
    "seeds with two or more of both are compared."
)
AGGREGATED = (
    "Human-normalized scores of the main arms and seeds that all games have. Each game has the same weight, but one "
    "with a small score, such as Seaquest, hardly changes a mean. With so few seeds the intervals are too narrow."
)
REGRET = (
    "Regret: the best fixed step less the automatic one. Mean of all: of the fixed steps. Only continuations that both "
    "have are compared. Where the automatic freeze came at a fixed step, both are the same run and the regret is 0."
)
REGRET_OVER_SEEDS = (
    "Returns: mean and standard deviation between seeds. The best fixed step is the one with the best mean. It is the "
    "best of several noisy means, so its regret is above 0 by chance alone. The default step, at which such a run "
    "freezes without `--freeze-at`, is not chosen so. Regrets: mean over seeds with its standard error."
)


def sections(games: Games) -> list[tuple[str, str, str]]:
    """Return title, explanation and table of each section that has lines."""
    found = [("What would count against this project", criteria_about(games), criteria(games))]
    found += [(game, others(game, arms), scores(arms)) for game, arms in games.items()]
    found += [
        ("All games", AGGREGATED, aggregates(games)),
        ("Differences", differences_about(games), differences(games)),
        ("Spread", "Standard deviations.", spreads(games)),
        ("The automatic freeze", REGRET, regrets(games)),
        ("The automatic freeze over seeds", REGRET_OVER_SEEDS, regrets_over_seeds(games)),
    ]
    return [section for section in found if section[2]]


def criteria(games: Games) -> str:
    """Return the table of the plan's criteria that can be judged, with the games that are against this project."""
    lines = [
        (criterion.text, *(verdict(criterion, games, measure) for measure in (None, *MEASURES)))
        for criterion in CRITERIA
    ]
    judged = [line for line in lines if any(not cell.startswith(NOT_JUDGED) for cell in line[1:])]
    return _table(("Criterion of the plan", "Main measures", *MEASURES.values()), judged)


def criteria_about(games: Games) -> str:
    """Return what the table of criteria says."""
    mains = [
        f" On {game} it is {MEASURES[measure].lower()}." for game, measure in MAIN_MEASURES.items() if game in games
    ]
    return (
        "The games named are those against it. Games with one seed are not judged. The main measure is the evaluation."
        + "".join(mains)
    )


def others(game: str, arms: Arms) -> str:
    """Return what others report of a game; empty if they do not have it, or the runs have another length."""
    known, random = published(game, arms), random_play(game)
    texts = []
    if known is not None:
        returns = [f"{value:,} by {name}" for value, name in zip(known.returns[game], known.publishers, strict=True)]
        texts.append(f"Published for {known.agent} after {known.timesteps:,} steps: {' and '.join(returns)}.")
    if random is not None:
        texts.append(f"Random play: {random:,.0f}.")
    return " ".join(texts)


def scores(arms: Arms) -> str:
    """Return the table of one game: each arm's scores by seed, mean, and cost."""
    from seer_edge.reports.statistics import mean_interval

    costs = ("CPU seconds", "TFLOPs", "Rows held", "Largest peak, MB")
    header = ("Arm", "Frozen at", "Seeds", "Runs", *MEASURES.values(), "Games in it", *costs)
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
                _range(result.games for result in arm.results),
                f"{statistics.fmean(result.cpu_seconds for result in arm.results):,.0f}",
                _teraflops(arm.results),
                f"{statistics.fmean(result.rows for result in arm.results):,.0f}",
                f"{max(result.rss_peak_bytes for result in arm.results) / 1e6:,.0f}",
            )
        )
    return _table(header, lines)


def _freeze_steps(results: Iterable[Result]) -> str:
    steps = sorted({result.freeze_step for result in results if result.freeze_step is not None})
    return ", ".join(f"{step:,}" for step in steps) or "-"


def _teraflops(results: Sequence[Result]) -> str:
    known = [result.flops for result in results if result.flops is not None]
    return f"{statistics.fmean(known) / 1e12:,.0f}" if known else "-"


def _range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def differences_about(games: Games) -> str:
    """Return how the table of differences compares arms."""
    pairs = [
        " and ".join(f"`{name}`" for name in pair)
        for pair in SIBLINGS
        if any({*pair} <= arms.keys() for arms in games.values())
    ]
    return COMPARED + (COMPARED_SIBLINGS.format(", ".join(pairs)) if pairs else "")


def differences(games: Games) -> str:
    """Return the table of the differences between arms, and for forks in how many seeds of all games they are above."""
    lines = []
    totals: dict[str, list[list[Difference | None]]] = {}
    for first, second, game, found in compared(games):
        lines.append((f"{first} - {second}", game, *(_difference(one) for one in found)))
        totals.setdefault(f"{first} - {second}", []).append(found)
    for pair, all_games in totals.items():
        sums = [_sum_above(found) for found in zip(*all_games, strict=True)]
        if len(all_games) > 1 and all(sums):
            lines.append((pair, "all games", *sums))
    return _table(("Arms", "Game", *MEASURES.values()), sorted(lines, key=lambda line: [*totals].index(line[0])))


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    if found.error is None:
        return f"{found.mean:+,.0f} ({'an arm has ' if found.above is None else ''}one seed)"
    above = "" if found.above is None else f" ({found.above} of {found.seeds} above)"
    return f"{found.mean:+,.0f} ± {found.error:,.0f}{above}"


def _sum_above(found: Iterable[Difference | None]) -> str:
    """Return in how many seeds forks are above their parents; empty for unrelated arms."""
    known = [(one.above, one.seeds) for one in found if one is not None and one.above is not None]
    return f"{sum(above for above, _ in known)} of {sum(seeds for _, seeds in known)} above" if known else ""


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
        seeds = set.intersection(*({*arms[name].seeds(measure)} for arms in played.values() for measure in MEASURES))
        if not seeds:
            continue
        for measure in MEASURES:
            strata = [
                [cast("float", human_normalized(game, arms[name].seeds(measure)[seed])) for seed in sorted(seeds)]
                for game, arms in played.items()
            ]
            joined = np.concatenate(strata)
            cells += [
                cell(float(np.mean(joined)), mean_interval(strata)),
                cell(float(interquartile_mean(joined)), interquartile_interval(strata)),
            ]
        lines.append((ARMS[name], f"{len(seeds)}", f"{len(played)}", *cells))
    names = [f"{title}: {what}" for title in MEASURES.values() for what in ("mean", "interquartile mean")]
    return _table(("Arm", "Seeds", "Games", *names), lines)


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
                repeated = [statistics.variance(found.values()) for found in values.values() if len(found) > 1]
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
                fixed = {arm: alike(arms[arm], arms["auto"], name) for arm in arms if is_fixed(arm)}
                known = {arm: (theirs[seed], own[seed]) for arm, (theirs, own) in fixed.items() if seed in own}
                if not known:
                    continue
                best = max(known, key=lambda arm: known[arm][0])
                value, own = known[best]
                lines.append(
                    (
                        game,
                        f"{seed}",
                        label_of_measure,
                        _freeze_steps(results.values()) + _latest(results.values()),
                        f"{own:,.0f}",
                        _freeze_steps(arms[best].by_seed[seed].values()),
                        f"{value:,.0f}",
                        f"{value - own:+,.0f}",
                        f"{statistics.fmean(theirs for theirs, _ in known.values()):,.0f}",
                    )
                )
    returns = ("Return", "Best fixed step", "Its return", "Regret", "Mean of all")
    return _table(("Game", "Seed", "Measure", "Step of auto", *returns), lines)


def _latest(results: Iterable[Result]) -> str:
    return " (the latest)" if any(result.freeze_is_latest for result in results) else ""


def regrets_over_seeds(games: Games) -> str:
    """Return the table of `--freeze-at auto` beside the fixed step whose mean over the same seeds is best."""
    lines = []
    for game, arms in games.items():
        for name, label_of_measure in MEASURES.items() if "auto" in arms else ():
            best = best_fixed(arms, name)
            if best is None:
                continue
            fixed, own = alike(best, arms["auto"], name)
            if len(own) < SEEDS_MIN:
                continue
            default = next((arm for arm in arms.values() if is_fixed(arm.name) and _is_default(arm)), None)
            lines.append(
                (
                    game,
                    label_of_measure,
                    f"{len(own)}",
                    _mean_and_deviation(own),
                    _freeze_steps(best.results),
                    _mean_and_deviation(fixed),
                    _regret(best, arms["auto"], name),
                    "-" if default is None else _freeze_steps(default.results),
                    "-" if default is None else _regret(default, arms["auto"], name),
                )
            )
    best_names, default_names = ("Best fixed step", "Its return", "Regret"), ("Default step", "Regret to it")
    return _table(("Game", "Measure", "Seeds", "Return of auto", *best_names, *default_names), lines)


def _is_default(arm: Arm) -> bool:
    """Return whether all runs froze at the step at which they freeze without `--freeze-at`."""
    return all(result.freeze_step == result.default_freeze for result in arm.results)


def _regret(fixed: Arm, auto: Arm, measure: str) -> str:
    return _difference(paired(*alike(fixed, auto, measure))).split(" (")[0]


def _mean_and_deviation(values: Mapping[int, float]) -> str:
    return f"{statistics.fmean(values.values()):,.0f} ± {statistics.stdev(values.values()):,.0f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; empty without lines."""
    if not lines:
        return ""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))
