"""Compare arms of the evidence: differences, their errors, and what the plan says would count against this project."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evidence_arms import EARLIER, MEASURES, Arm, Arms, Games, alike, is_fixed, published

SEEDS_MIN = 2
"""Of a deviation between seeds."""
GAMES_AGAINST = 2
"""Games on which an arm must be below another for that to count."""
MAIN_MEASURES = {"CrazyClimber": "training"}
"""By game; of all others it is the evaluation."""
FORKS = (("paper", "bounded"), ("uint8", "whole"), ("uint4", "whole"), ("twice-paper", "twice"))
"""Arms and their parents."""
SIBLINGS = (("fresh", "paper"),)
"""Arms whose runs with one seed are forks of one checkpoint."""
UNRELATED = (
    ("uint8", "paper"),
    ("uint8", "bounded"),
    ("paper", "whole"),
    ("prioritized", "whole"),
    ("n10", "prioritized"),
    ("n10", "whole"),
    ("dopamine", "n10"),
    ("twice", "bounded"),
)
"""Arms whose runs have nothing in common but the number of the seed."""
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Difference:
    """Between the scores of two arms.

    Attributes:
        mean: of the first arm, less that of the second.
        error: its standard error; None if an arm has one seed.
        seeds: seeds of the arm that has fewer.
        above: seeds in which the first arm is above its parent; None for arms that are not parent and fork.

    """

    mean: float
    error: float | None
    seeds: int
    above: int | None


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Compare a fork with its parent, seed by seed. None without a common seed."""
    values = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not values:
        return None
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) >= SEEDS_MIN else None
    return Difference(statistics.fmean(values), error, len(values), sum(value > 0 for value in values))


def unpaired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Compare unrelated runs, whose errors add up as in Welch's test. None if an arm has no score."""
    both = list(first.values()), list(second.values())
    seeds = min(map(len, both))
    if not seeds:
        return None
    error = sum(statistics.variance(values) / len(values) for values in both) ** 0.5 if seeds >= SEEDS_MIN else None
    return Difference(statistics.fmean(both[0]) - statistics.fmean(both[1]), error, seeds, None)


def siblings(first: Mapping[int, Mapping[str, float]], second: Mapping[int, Mapping[str, float]]) -> Difference | None:
    """Compare forks of one checkpoint, whose errors are those between continuations.

    None without a seed of which both arms have two continuations.
    """
    pairs = [[[*arm.get(seed, {}).values()] for arm in (first, second)] for seed in first]
    repeated = [pair for pair in pairs if min(map(len, pair)) > 1]
    if not repeated:
        return None
    means = [statistics.fmean(one) - statistics.fmean(other) for one, other in repeated]
    variances = [statistics.variance(values) / len(values) for pair in repeated for values in pair]
    return Difference(statistics.fmean(means), sum(variances) ** 0.5 / len(means), len(means), None)


def compared(games: Games) -> Iterator[tuple[str, str, str, list[Difference | None]]]:
    """Yield two arms, a game that has both, and their difference by each measure."""
    earlier = sorted({name for arms in games.values() for name in arms if EARLIER.fullmatch(name)})
    forks = [*FORKS, *((name, "bounded") for name in (*earlier, "auto"))]
    comparisons: list[tuple[Sequence[tuple[str, str]], Callable[[Arm, Arm, str], Difference | None]]] = [
        (forks, lambda first, second, name: paired(first.seeds(name), second.seeds(name))),
        (SIBLINGS, lambda first, second, name: siblings(first.values(name), second.values(name))),
        (UNRELATED, lambda first, second, name: unpaired(first.seeds(name), second.seeds(name))),
    ]
    for pairs, compare in comparisons:
        for first, second in pairs:
            for game, arms in games.items():
                if first in arms and second in arms:
                    yield first, second, game, [compare(arms[first], arms[second], name) for name in MEASURES]


def best_fixed(arms: Arms, measure: str) -> Arm | None:
    """Return the arm with a fixed step whose mean over the seeds of `auto` is best; None if no arm has all of them."""
    seeds = arms["auto"].seeds(measure).keys()
    full = [arms[name] for name in arms if is_fixed(name) and arms[name].seeds(measure).keys() >= seeds]
    return max(full, key=lambda arm: statistics.fmean(arm.seeds(measure)[seed] for seed in seeds), default=None)


# --- what would count against this project ---------------------------------------------------------------------------

Verdict = Callable[[Arms, str, str], bool | None]
"""Of the arms of a game, by game and measure: whether it is against this project; None if it cannot be judged."""


def _below(fork: str, parent: str) -> Verdict:
    def judge(arms: Arms, game: str, measure: str) -> bool | None:
        if fork not in arms or parent not in arms:
            return None
        found = paired(arms[fork].seeds(measure), arms[parent].seeds(measure))
        return None if found is None or found.error is None else found.mean < -found.error

    return judge


def _not_above(arms: Arms, game: str, measure: str) -> bool | None:
    if "uint8" not in arms or "paper" not in arms:
        return None
    found = unpaired(arms["uint8"].seeds(measure), arms["paper"].seeds(measure))
    return None if found is None or found.seeds < SEEDS_MIN else found.mean <= 0


def _below_published(arms: Arms, game: str, measure: str) -> bool | None:
    known = published(game, arms)
    seeds = list(arms["whole"].seeds(measure).values()) if "whole" in arms else []
    if known is None or measure != "evaluation" or len(seeds) < SEEDS_MIN:
        return None
    return known.returns[game][0] - statistics.fmean(seeds) > statistics.stdev(seeds)


def _auto_below(arms: Arms, game: str, measure: str) -> bool | None:
    best = best_fixed(arms, measure) if "auto" in arms else None
    if best is None:
        return None
    fixed, own = alike(best, arms["auto"], measure)
    if len(own) < SEEDS_MIN:
        return None
    spread = max(statistics.stdev(fixed.values()), statistics.stdev(own.values()))
    regret = paired(fixed, own)
    return regret is not None and regret.mean > spread


@dataclass(frozen=True)
class Criterion:
    """What would count against this project.

    Attributes:
        text: the criterion in words.
        judge: its verdict on a game.
        games: on how many games it must hold; None for each that is judged.

    """

    text: str
    judge: Verdict
    games: int | None


CRITERIA = (
    Criterion(
        "SEER in float32 is below Rainbow with the newest frames by more than the standard error, on two games",
        _below(*FORKS[0]),
        GAMES_AGAINST,
    ),
    Criterion(
        "Compressed uint8 is below Rainbow with all frames by more than the standard error, on two games",
        _below(*FORKS[1]),
        GAMES_AGAINST,
    ),
    Criterion(
        "Compressed uint4 is below Rainbow with all frames by more than the standard error, on two games",
        _below(*FORKS[2]),
        GAMES_AGAINST,
    ),
    Criterion("Compressed uint8 is not above SEER in float32 on any game", _not_above, None),
    Criterion(
        "Rainbow with all frames is below the first published return by more than the deviation between seeds",
        _below_published,
        1,
    ),
    Criterion("--freeze-at auto is below the best fixed step by more than the deviation between seeds", _auto_below, 1),
)


def verdict(criterion: Criterion, games: Games, measure: str | None) -> str:
    """Return whether a criterion is met, with the games against this project. None stands for the main measures."""
    judged = {
        game: criterion.judge(arms, game, measure or MAIN_MEASURES.get(game, "evaluation"))
        for game, arms in games.items()
    }
    known = {game: found for game, found in judged.items() if found is not None}
    against = [game for game, found in known.items() if found]
    if len(known) < (criterion.games or 1):
        return NOT_JUDGED
    met = len(against) >= (len(known) if criterion.games is None else criterion.games)
    return ("**met**" if met else "not met") + (f": {', '.join(against)}" if against else "")
