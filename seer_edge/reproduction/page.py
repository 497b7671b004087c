"""The page of a reproduction: a report of its runs, below the paper's claim and its numbers beside ours."""

import base64
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seer_edge.config.plan import BytePlan
from seer_edge.reports.figures import all_figures
from seer_edge.reports.page import Cell, Content, Head, Lead, Table, number, render
from seer_edge.reports.reading import FLOPS, SECONDS, Run, read_run
from seer_edge.reports.reference_scores import PaperScore
from seer_edge.reports.scores import Point, Row, aggregates, comparisons, rows_of, score_of
from seer_edge.reproduction.description import PaperTable, Reproduction
from seer_edge.reproduction.scaling import holds_run
from seer_edge.runs.run_folder import is_run
from seer_edge.sweeps.cost import Kind, first_step, kind_of
from seer_edge.sweeps.spec import Job

MINUTE, HOUR = 60, 3600

Runs = Mapping[str, Sequence[tuple[Job, Run]]]
"""Jobs that have begun and their runs, by variant."""


@dataclass(frozen=True)
class Made:
    """What was run for a page.

    Attributes:
        reproduction: the table or figure.
        scale: the factor of all steps.
        folder: the folder of the runs.
        jobs: the jobs that were asked for.
        full: the plan of each kind of job at scale 1.
        plans: those of the jobs.
        forecast: estimated seconds by job.
        problems: jobs that did not finish, and why.
        analysis: the folder of the files of `analyze`; None without them.

    """

    reproduction: Reproduction
    scale: float
    folder: Path
    jobs: Sequence[Job]
    full: Mapping[Kind, BytePlan]
    plans: Mapping[Kind, BytePlan]
    forecast: Mapping[str, float]
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    analysis: Path | None = None


def page_of(made: Made) -> str | None:
    """Return the page as HTML; None if no run has begun. Raises BadInputError."""
    runs: dict[str, list[tuple[Job, Run]]] = defaultdict(list)
    for job in made.jobs:
        if is_run(made.folder / job.name):
            runs[job.variant].append((job, read_run(made.folder / job.name)))
    if not runs:
        return None
    end = Point()
    groups: dict[str, dict[str, list[Run]]] = {}
    for variant, label in made.reproduction.labels.items():
        for _, run in runs[variant]:
            groups.setdefault(run.game, {}).setdefault(label, []).append(run)
    rows = _with_papers(rows_of(groups, end), made.reproduction)
    figures = all_figures(groups, rows, end.text)
    first = made.reproduction.figures
    figures.sort(key=lambda figure: first.index(figure.name) if figure.name in first else len(first))
    everything = [run for found in runs.values() for _, run in found]
    content = Content(
        title=made.reproduction.title,
        runs=everything,
        rows=rows,
        aggregates=aggregates(rows),
        comparisons=comparisons(rows),
        figures=figures,
        point=end,
        lead=_lead(made, runs),
    )
    return render(content)


def _with_papers(rows: Iterable[Row], reproduction: Reproduction) -> list[Row]:
    """Return the rows with the paper's scores at the end, where it has them, for the figure of scores."""
    papers = {
        (env, reproduction.labels[variant]): PaperScore(*scores[env])
        for table in reproduction.tables
        if table.at == "end"
        for variant, scores in table.paper.items()
        for env in scores
    }
    return [dataclasses.replace(row, paper=papers.get((row.game, row.setting))) for row in rows]


def _lead(made: Made, runs: Runs) -> Lead:
    what = made.reproduction
    tables = [(_title(table, made.scale), _scores(made, table, runs)) for table in what.tables]
    tables.append(("Steps, freeze and evaluations" + (" at this scale" if made.scale != 1 else ""), _settings(made)))
    return Lead(
        source=f"{what.section} of Chen et al. (2021), Improving Computational Efficiency in Visual Reinforcement "
        "Learning via Stored Embeddings",
        shows=what.shows,
        setting=what.setting,
        tables=tables,
        differences=[*_differences(made), *what.limits],
        cost=_cost(made, runs),
        pictures=list(pictures_of(made)),
    )


# --- the paper's numbers and ours --------------------------------------------------------------------------------


def _scores(made: Made, table: PaperTable, runs: Runs) -> Table:
    """Return a row for each environment and variant: the paper's score, ours, and what it took."""
    lines = []
    for env in dict.fromkeys(job.env for job in made.jobs if job.variant in table.variants):
        found = {variant: [run for job, run in runs.get(variant, ()) if job.env == env] for variant in table.variants}
        point = _point(table, made.scale, found)
        for variant in table.variants:
            wanted = sum(job.env == env and job.variant == variant for job in made.jobs)
            if wanted:
                paper = table.paper.get(variant, {}).get(env)
                lines.append(_line(env, made.reproduction.labels[variant], paper, found[variant], wanted, point))
    texts = ["Environment", "Variant", "Paper", "Here", "Runs", "Steps", "TFLOPs"]
    return Table([Head(text, position >= 2) for position, text in enumerate(texts)], lines)


def _title(table: PaperTable, scale: float) -> str:
    if isinstance(table.at, str) or scale == 1:
        return table.title
    return f"{table.title}, here at {scale * table.at / 1e12:.3g}T"


def _point(table: PaperTable, scale: float, found: Mapping[str, Sequence[Run]]) -> Point:
    if table.at == "end":
        return Point()
    if table.at != "equal":
        return Point(flops=scale * table.at)
    ends = [run.column(FLOPS)[-1] for runs in found.values() for run in runs if run.is_finished and run.has(FLOPS)]
    return Point(flops=float(np.nanmin(ends))) if ends else Point()


def _line(
    env: str, label: str, paper: tuple[float, float] | None, runs: Sequence[Run], wanted: int, point: Point
) -> list[Cell]:
    scores = [score_of(run, point) for run in runs]
    values = [score.mean for score in scores if score.mean is not None]
    steps = [score.step for score in scores if score.step is not None]
    flops = [
        run.at_steps(FLOPS, np.array([score.step]))[0] for run, score in zip(runs, scores, strict=True) if score.step
    ]
    ours = "–" if not values else number(float(np.mean(values)))
    if len(values) > 1:
        ours += f" ± {number(float(np.std(values, ddof=1)))}"
    return [
        Cell(env),
        Cell(label),
        Cell("–" if paper is None else f"{paper[0]:,.1f} ± {paper[1]:,.1f}"),
        Cell(ours),
        Cell(f"{len(values)} of {wanted}", warns=len(values) < wanted),
        Cell("–" if not steps else f"{round(float(np.mean(steps))):,}"),
        Cell("–" if not flops else f"{float(np.mean(flops)) / 1e12:.3g}"),
    ]


# --- what differs ------------------------------------------------------------------------------------------------


def _settings(made: Made) -> Table:
    """Return a row for each environment and variant; with a scale, the full value before each value."""
    lines = []
    for kind in dict.fromkeys(map(kind_of, made.jobs)):
        full, used = made.full[kind], made.plans[kind]
        values = [_values(full), _values(used)]
        cells = [one if one == other else f"{one} → {other}" for one, other in zip(*values, strict=True)]
        lines.append([Cell(kind[0]), Cell(made.reproduction.labels[kind[1]]), *map(Cell, cells)])
    texts = ["Environment", "Variant", "Steps", "Freeze", "Learning starts", "Random steps", "Evaluated every"]
    texts += ["Episodes", "Budget in bytes", "Frames that fit"]
    return Table([Head(text, position >= 2) for position, text in enumerate(texts)], lines)


def _values(plan: BytePlan) -> list[str]:
    config = plan.config
    counts = [
        config.total_timesteps,
        "never" if config.freeze_at is None else config.freeze_at,
        config.settings.learning_starts,
        config.settings.random_steps,
        "never" if config.eval_every is None else config.eval_every,
        config.eval_episodes,
        config.mem_budget_bytes,
        plan.frame_capacity,
    ]
    return [count if isinstance(count, str) else f"{count:,}" for count in counts]


def _differences(made: Made) -> list[str]:
    reasons = dict.fromkeys(made.problems.values())
    lines = [
        f"{', '.join(name for name, why in made.problems.items() if why == reason)}: {reason}." for reason in reasons
    ]
    if made.scale != 1:
        lines.append(
            f"These runs have {made.scale:.3g} times the paper's steps. Their scores cannot confirm or refute its "
            "numbers. The hyperparameters, such as the steps between two updates of the target network, are not scaled."
        )
    loose = [
        f"{kind[0]}, {made.reproduction.labels[kind[1]]}"
        for kind, plan in made.plans.items()
        if holds_run(plan) and not holds_run(made.full[kind])
    ]
    if loose:
        lines.append(f"At this scale the budget holds the whole run, so it limits nothing: {'; '.join(loose)}.")
    lines += choice_of(made)
    episodes = {plan.config.eval_episodes for plan in made.plans.values()}
    if episodes != {10}:
        lines.append(f"Episodes of an evaluation: {_range(episodes)}, in the paper 10.")
    return lines


def choice_of(made: Made) -> Iterator[str]:
    """Yield a line with the seeds and environments that were chosen, unless they are those of the paper."""
    wanted = made.reproduction.jobs()
    if {job.name for job in made.jobs} == {job.name for job in wanted}:
        return
    seeds = ", ".join(map(str, sorted({job.seed for job in made.jobs})))
    envs = ", ".join(dict.fromkeys(job.env for job in made.jobs))
    yield f"Runs: {len(made.jobs)}, in the whole reproduction {len(wanted)}. Seeds: {seeds}. Environments: {envs}."


def _range(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _cost(made: Made, runs: Runs) -> str:
    """Return what the finished runs were expected to take, and what they took."""
    done = [
        (job, run) for found in runs.values() for job, run in found if run.is_finished and job.name in made.forecast
    ]
    if not done:
        return ""
    took = sum(_seconds(run, first_step(job, made.plans)) for job, run in done)
    expected = sum(made.forecast[job.name] for job, _ in done)
    count = "1 finished run" if len(done) == 1 else f"{len(done)} finished runs"
    return f"{count}: {_duration(expected)} expected, {_duration(took)} taken, counted one after the other."


def pictures_of(made: Made) -> Iterator[tuple[str, str]]:
    """Yield the name and the PNG file, as base64, of each picture of the analysis that the figure needs."""
    if made.analysis is None:
        return
    files = sorted(made.analysis.glob("*.png"))
    first = made.reproduction.pictures
    for place, start in enumerate(first):
        for file in files:
            # An earlier beginning takes its files first: "attention_change" before "attention_".
            if file.name.startswith(start) and not file.name.startswith(tuple(first[:place])):
                yield file.stem.replace("_", " "), base64.b64encode(file.read_bytes()).decode()


def _seconds(run: Run, begin: int) -> float:
    """Return the seconds of a run without those that a fork has from its parent."""
    seconds = run.column(SECONDS)
    before = run.at_steps(SECONDS, np.array([float(begin)]))[0] if begin else 0.0
    return float(seconds[-1] - before) if len(seconds) else 0.0


def _duration(seconds: float) -> str:
    return f"{seconds / HOUR:.2f} hours" if seconds >= HOUR else f"{seconds / MINUTE:.1f} minutes"
