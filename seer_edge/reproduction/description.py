"""The files of this folder: what the paper shows in a table or figure, and the sweep that trains its runs."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seer_edge.config.values import parse_flops
from seer_edge.errors import BadInputError
from seer_edge.sweeps.spec import Job, jobs_of
from seer_edge.validation import nearest

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
SWEEP_ENTRIES = ("envs", "seeds", "settings", "variants")
ReportedAt = Literal["end", "equal"]

MeanStd = tuple[float, float]
"""Mean and standard deviation over the paper's runs."""


@dataclass(frozen=True)
class PaperTable:
    """A table that compares variants at one point.

    Attributes:
        title: its title.
        at: "end" of each run, "equal" for the FLOPs of the variant that needs the fewest, or a number of FLOPs.
        variants: the variants that it compares.
        paper: the paper's scores by variant and environment; empty if it gives none.

    """

    title: str
    at: ReportedAt | float
    variants: tuple[str, ...]
    paper: Mapping[str, Mapping[str, MeanStd]]


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper.

    Attributes:
        name: its name, such as "fig2".
        title: its title.
        section: where the paper discusses it.
        shows: the paper's claim.
        setting: the paper's environments, runs and budgets.
        limits: what differs here from the paper, whatever the scale.
        figures: names of the report's figures that show it; they come first.
        labels: what each variant is called.
        pictures: beginnings of the names of the pictures of `analyze` that show it; empty if none does.
        tables: the paper's numbers and ours.
        sweep: the description of the sweep.
        text: the file, which `seer-edge sweep` accepts.

    """

    name: str
    title: str
    section: str
    shows: str
    setting: str
    limits: tuple[str, ...]
    figures: tuple[str, ...]
    labels: Mapping[str, str]
    pictures: tuple[str, ...]
    tables: tuple[PaperTable, ...]
    sweep: Mapping[str, Any]
    text: str

    def jobs(self, envs: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Job]:
        """Return the jobs of the sweep, or those of `envs` and `seeds` with the runs that they need.

        Raises BadInputError.
        """
        listed = jobs_of(self.sweep if seeds is None else {**self.sweep, "seeds": list(seeds)})
        if envs is None:
            return listed
        known = {job.env.lower(): job.env for job in listed}
        for env in envs:
            if env.lower() not in known:
                raise BadInputError(f"--envs {env}: not in {self.name}; choose from {', '.join(known.values())}")
        wanted = {env.lower() for env in envs}
        needed: set[str] = set()
        for job in reversed(listed):  # each job comes after those that it needs
            if job.env.lower() in wanted or job.name in needed:
                needed |= {job.name, *(before.name for before in job.needed)}
        return [job for job in listed if job.name in needed]


def names() -> list[str]:
    """Return the names of all reproductions: tables, then figures by number."""
    found = [path.stem for path in FOLDER.glob(f"*{SUFFIX}")]
    return sorted(found, key=lambda name: (name.startswith("fig"), int(name.strip("abcdefghijklmnopqrstuvwxyz"))))


def load(name: str) -> Reproduction:
    """Return the reproduction `name`. Raises BadInputError if there is none."""
    if name not in names():
        hint = nearest(name.lower().replace("figure", "fig"), names())
        raise BadInputError(f"NAME {name[:40]}: not a table or figure with runs; {hint}")
    text = (FOLDER / f"{name}{SUFFIX}").read_text()
    data = tomllib.loads(text)
    about = data["about"]
    return Reproduction(
        name=name,
        **{entry: about[entry] for entry in ("title", "section", "shows", "setting", "labels")},
        limits=tuple(about["limits"]),
        figures=tuple(about["figures"]),
        pictures=tuple(about.get("pictures", ())),
        tables=tuple(_table(table, tuple(about["labels"])) for table in about["tables"]),
        sweep={entry: data[entry] for entry in SWEEP_ENTRIES if entry in data},
        text=text,
    )


def _table(table: Mapping[str, Any], variants: tuple[str, ...]) -> PaperTable:
    at = table["at"]
    return PaperTable(
        title=table["title"],
        at=at if at in ("end", "equal") else parse_flops(at),
        variants=tuple(table.get("variants", variants)),
        paper={
            variant: {env: (float(mean), float(std)) for env, (mean, std) in scores.items()}
            for variant, scores in table.get("paper", {}).items()
        },
    )
