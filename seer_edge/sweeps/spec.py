"""The description of a sweep, and the jobs that it stands for: environments x variants x seeds."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.hyperparameters import toml_value
from seer_edge.config.request import ForkRequest, ResumeRequest, RunRequest, flag_of
from seer_edge.errors import BadInputError

FILE_BYTES_MAX = 65_536
_ENTRIES = ("envs", "seeds", "settings", "variants")
_OWN = ("env", "seed", "at")
"""Options of a run that the sweep sets itself."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: name of its folder, ENV__VARIANT__SEED.
        options: options of `train`, or of `fork` if there is a parent.
        parent: the job that it is a fork of.
        at: step of the parent at which it begins; None for the newest checkpoint.
        keeps: steps that it keeps for its forks.

    """

    name: str
    env: str
    variant: str
    seed: int
    options: Mapping[str, Any]
    parent: "Job | None" = None
    at: int | None = None
    keeps: tuple[int, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what the sweep's folder records: the job as the file describes it."""
        parent = None if self.parent is None else self.parent.name
        record = {"env": self.env, "seed": self.seed, "options": self.options, "parent": parent, "at": self.at}
        return dict(json.loads(json.dumps(record)))

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of a run that equals the fork from step 0 on, for planning."""
        if self.parent is None:
            return dict(self.options)
        inherited = self.parent.all_options
        hyperparameters = {**inherited.get("set", {}), **self.options.get("set", {})}
        return {**inherited, **self.options, **({"set": hyperparameters} if hyperparameters else {})}

    def words(self, folder: Path) -> list[str]:
        """Return the words of the command that begins the run, which is a job of the sweep in `folder`."""
        keeps = {*self.options.get("keep_checkpoint", ()), *self.keeps}
        options = {**self.options, **({"keep_checkpoint": sorted(keeps)} if keeps else {})}
        if self.parent is None:
            begin = ["train", f"--env={self.env}", f"--seed={self.seed}", f"--run-dir={folder / self.name}"]
        else:
            begin = ["fork", str(folder / self.parent.name), "-o", str(folder / self.name)]
            begin += [] if self.at is None else [f"--at={self.at}"]
        return [*begin, *flags_of(options), "--quiet"]


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """Return options of the Python API as flags."""
    words = []
    for name, value in options.items():
        flag = flag_of(name)
        if name == "set":
            words += [f"{flag}={key}={toml_value(given)}" for key, given in value.items()]
        elif name == "keep_checkpoint":
            words += [f"{flag}={step}" for step in value]
        elif name == "env_kwargs":
            words.append(f"{flag}={value if isinstance(value, str) else json.dumps(value)}")
        elif name == "pipeline":
            words.append(f"{flag}={'on' if value else 'off'}")
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, float) and name in ("checkpoint_every", "env_timeout"):
            words.append(f"{flag}={value}s")
        else:
            words.append(f"{flag}={value}")
    return words


def read_spec(path: Path) -> list[Job]:
    """Return the jobs of the file `path`, each after its parent. Raises BadInputError."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise BadInputError(f"{path}: larger than {FILE_BYTES_MAX:,} bytes; give the file of a sweep")
        data = tomllib.loads(text.decode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); give the file of a sweep") from error
    except ValueError as error:
        raise BadInputError(f"{path}: not TOML ({error}); see docs/sweeps.md") from error
    try:
        return jobs_of(data)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from error


def jobs_of(data: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a description, the content of a file as Python values. Raises BadInputError."""
    unknown = sorted(set(data) - set(_ENTRIES))
    if unknown:
        raise BadInputError(f"{unknown[0]}: unknown entry; choose one of {', '.join(_ENTRIES)}")
    envs, seeds = data.get("envs"), data.get("seeds", [0])
    if not _is_list(envs, str):
        raise BadInputError('envs: give a list of environments, for example ["Alien"]')
    if not _is_list(seeds, int):
        raise BadInputError("seeds: give a list of whole numbers, for example [0, 1, 2]")
    variants = data.get("variants", {"run": {}})
    tables = [variants, data.get("settings", {}), *(variants.values() if isinstance(variants, dict) else ())]
    if not all(isinstance(table, dict) for table in tables) or not variants:
        raise BadInputError("settings and variants: give tables, for example [variants.late] with freeze_at = 80000")
    jobs: dict[str, Job] = {}
    for env in envs or ():
        for seed in seeds:
            for name in _parents_first(variants):
                job = _job(env, seed, name, variants[name], data.get("settings", {}), jobs)
                if job.name in jobs:
                    raise BadInputError(f"two runs have the name {job.name}; leave one of them out")
                jobs[job.name] = job
    keeps: dict[str, set[int]] = {}
    for job in jobs.values():
        if job.parent is not None and job.at is not None:
            keeps.setdefault(job.parent.name, set()).add(job.at)
    return [dataclasses.replace(job, keeps=tuple(sorted(keeps.get(job.name, ())))) for job in jobs.values()]


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def _parents_first(variants: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    waiting, done = list(variants), set[str]()
    for name in waiting:
        if _NAME.fullmatch(name) is None:
            raise BadInputError(f"variants.{name}: not a name; use letters, digits, dots and dashes")
        parent = variants[name].get("fork")
        if parent is not None and parent not in variants:
            raise BadInputError(f"variants.{name}: fork = {parent!r} is no variant; name one of {', '.join(variants)}")
    while waiting:
        ready = [name for name in waiting if variants[name].get("fork") in (None, *done)]
        if not ready:
            raise BadInputError(f"variants.{waiting[0]}: is a fork of itself; fork a variant that trains from step 0")
        for name in ready:
            waiting.remove(name)
            done.add(name)
            yield name


def _options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a table by the names of the Python API."""
    named = {name.replace("-", "_"): value for name, value in table.items()}
    return {"from_" if name == "from" else name: value for name, value in named.items()}


def _job(
    env: str, seed: int, variant: str, table: Mapping[str, Any], settings: Mapping[str, Any], jobs: Mapping[str, Job]
) -> Job:
    given, common = _options(table), _options(settings)
    parent, at = given.pop("fork", None), given.pop("at", None)
    if parent is None and at is not None:
        raise BadInputError(f"variants.{variant}: at needs fork; name the variant to fork")
    if at is not None and (type(at) is not int or at < 0):
        raise BadInputError(f"variants.{variant}: at = {at!r} is not a step; give a whole number")
    merged = {**common, **given} if parent is None else given
    if parent is None and isinstance(common.get("set"), dict) and isinstance(given.get("set"), dict):
        merged["set"] = {**common["set"], **given["set"]}
    kind: type[ResumeRequest] = RunRequest if parent is None else ForkRequest
    known = {field.name for field in dataclasses.fields(kind)} - set(_OWN)
    for name in merged:
        if name not in known:
            raise BadInputError(f"variants.{variant}: {name} is unknown or cannot differ; see docs/sweeps.md")
    if not isinstance(merged.get("set", {}), dict):
        raise BadInputError(f"variants.{variant}: set must be a table, for example set = {{ batch_size = 64 }}")
    options: dict[str, Any] = {**merged, **({"env": env, "seed": seed} if parent is None else {})}
    try:
        kind.of(**options)
    except BadInputError as error:
        raise BadInputError(f"variants.{variant}: {error}") from error
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", env)
    before = None if parent is None else jobs[f"{plain}__{parent}__{seed}"]
    return Job(f"{plain}__{variant}__{seed}", env, variant, seed, merged, before, at)
