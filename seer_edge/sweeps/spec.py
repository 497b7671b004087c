"""The description of a sweep, and the jobs that it stands for: environments x variants x seeds."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.config import SEED_MAX
from seer_edge.config.hyperparameters import toml_value
from seer_edge.config.request import ENCODER, ForkRequest, ResumeRequest, RunRequest, flag_of
from seer_edge.config.toml_file import read_toml
from seer_edge.errors import BadInputError
from seer_edge.validation import nearest

_ENTRIES = ("envs", "seeds", "settings", "variants", "about")
"""Entries of a description. `about` is free for notes."""
_OWN = ("env", "seed")
"""Options of `train` that the sweep sets itself. A fork may continue with another seed."""
_SECONDS: Mapping[str, Any] = {"checkpoint_every": float, "env_timeout": float | int, "rest_after": float | int}
"""Options that are times, and the types of those that are numbers of seconds."""
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
        source: the job whose encoder it imports.

    """

    name: str
    env: str
    variant: str
    seed: int
    options: Mapping[str, Any]
    parent: "Job | None" = None
    at: int | None = None
    keeps: tuple[int, ...] = ()
    source: "Job | None" = None

    @property
    def needed(self) -> tuple["Job", ...]:
        """The jobs that must finish before this one begins."""
        return tuple(job for job in (self.parent, self.source) if job is not None)

    @property
    def imports(self) -> "Job | None":
        """The job whose encoder this run has: its own source, or that of its parent."""
        return self.source if self.parent is None else self.parent.imports

    def record(self) -> dict[str, Any]:
        """Return what the sweep's folder records: the job as the file describes it."""
        parent = None if self.parent is None else self.parent.name
        record = {"env": self.env, "seed": self.seed, "options": self.options, "parent": parent, "at": self.at}
        if self.source is not None:  # sweeps of earlier versions do not record it
            record["source"] = self.source.name
        return dict(json.loads(json.dumps(record)))

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of a run that equals the fork from step 0 on, for planning."""
        if self.parent is None:
            return dict(self.options)
        inherited = self.parent.all_options
        hyperparameters = {**inherited.get("set", {}), **self.options.get("set", {})}
        return {**inherited, **self.options, **({"set": hyperparameters} if hyperparameters else {})}

    @property
    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints the run keeps: those that it was given, and those of its forks."""
        return sorted({*self.options.get("keep_checkpoint", ()), *self.keeps})

    def words(self, folder: Path) -> list[str]:
        """Return the words of the command that begins the run, which is a job of the sweep in `folder`."""
        options = {**self.options, **({"keep_checkpoint": self.kept_steps} if self.kept_steps else {})}
        if self.parent is None:
            source = self.source
            begin = [] if source is None else [f"--from={folder / source.name}", f"--take={ENCODER}"]
            begin = ["train", *begin, f"--env={self.env}", f"--seed={self.seed}", f"--run-dir={folder / self.name}"]
        else:
            begin = ["fork", str(folder / self.parent.name), "-o", str(folder / self.name)]
            begin += [] if self.at is None else [f"--at={self.at}"]
        return [*begin, *flags_of(options), "--quiet"]

    def words_to_resume(self, folder: Path, timestep: int) -> list[str]:
        """Return the words of the command that continues the run from a checkpoint at `timestep`.

        A fork may have been added to the sweep since the run began.
        """
        keeps = [step for step in self.kept_steps if step >= timestep]
        return ["resume", str(folder / self.name), *flags_of({"keep_checkpoint": keeps}), "--quiet"]


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """Return options of the Python API as flags. None stands for an option that is not given."""
    words = []
    for name, value in options.items():
        flag = flag_of(name)
        if value is None:
            continue
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
        elif isinstance(value, _SECONDS.get(name, ())):
            words.append(f"{flag}={value}s")
        elif isinstance(value, list | tuple):
            words.append(f"{flag}={','.join(map(str, value))}")
        else:
            words.append(f"{flag}={value}")
    return words


def read_spec(path: Path) -> list[Job]:
    """Return the jobs of the file `path`, each after its parent. Raises BadInputError."""
    data = read_toml(path, f"{path}", "give the file of a sweep", "see docs/sweeps.md")
    try:
        return jobs_of(data)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from error


def jobs_of(data: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a description, the content of a file as Python values. Raises BadInputError."""
    unknown = sorted(set(data) - set(_ENTRIES))
    if unknown:
        raise BadInputError(f"{unknown[0]}: unknown entry; {nearest(unknown[0], _ENTRIES)}")
    seeds, variants, settings = data.get("seeds", [0]), data.get("variants", {"run": {}}), data.get("settings", {})
    if not _is_list(seeds, int):
        raise BadInputError("seeds: give a list of whole numbers, for example [0, 1, 2]")
    unfit = [seed for seed in seeds if not 0 <= seed <= SEED_MAX]
    if unfit:
        raise BadInputError(f"seeds: {unfit[0]} is no seed; give whole numbers from 0 to {SEED_MAX}")
    tables = [variants, settings, *(variants.values() if isinstance(variants, dict) else ())]
    if not all(isinstance(table, dict) for table in tables) or not variants:
        raise BadInputError("settings and variants: give tables, for example [variants.late] with freeze_at = 80000")
    maker = _Maker(settings, {name: _Variant.of(name, table, data.get("envs")) for name, table in variants.items()})
    envs = list(dict.fromkeys(env for variant in maker.variants.values() for env in variant.envs))
    for env, seed, name in itertools.product(envs, seeds, maker.ordered):
        if env in maker.variants[name].envs:
            maker.add(env, seed, name)
    names = [_job_name(env, name, seed) for name, of in maker.variants.items() for env in of.envs for seed in seeds]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInputError(f"envs, seeds and variants give two runs the name {twice[0]}; leave one of them out")
    keeps: dict[str, set[int]] = {}
    for job in maker.jobs.values():
        if job.parent is not None and job.at is not None:
            keeps.setdefault(job.parent.name, set()).add(job.at)
    return [dataclasses.replace(job, keeps=tuple(sorted(keeps.get(job.name, ())))) for job in maker.jobs.values()]


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def _options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a table by the names of the Python API."""
    named = {name.replace("-", "_"): value for name, value in table.items()}
    if len(named) < len(table):
        twice = next(name for name in table if "-" in name and name.replace("-", "_") in table)
        raise BadInputError(f"{twice}: is also given as {twice.replace('-', '_')}; leave one of them out")
    return {"from_" if name == "from" else name: value for name, value in named.items()}


@dataclass(frozen=True)
class _Variant:
    """A variant of a description. Raises BadInputError."""

    envs: tuple[str, ...]
    options: Mapping[str, Any]
    fork: str | None = None
    at: int | None = None
    source: str | None = None  # the variant whose encoder it imports
    source_env: str | None = None  # None: the same environment

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any], envs: Any) -> "_Variant":
        options = _options(table)
        own, fork, at = options.pop("envs", envs), options.pop("fork", None), options.pop("at", None)
        source: Mapping[str, str] = {}
        if not _is_list(own, str):
            where = f"variants.{name}: " if "envs" in table else ""
            raise BadInputError(f'{where}envs: give a list of environments, for example ["Alien"]')
        if fork is None and at is not None:
            raise BadInputError(f"variants.{name}: at needs fork; name the variant to fork")
        if at is not None and (type(at) is not int or at < 0):
            raise BadInputError(f"variants.{name}: at = {at!r} is not a step; give a whole number")
        if isinstance(options.get("from_"), dict):
            source = options.pop("from_")
            if not {"variant"} <= source.keys() <= {"variant", "env"} or not all(map(_is_text, source.values())):
                raise BadInputError(
                    f"variants.{name}: from = {source} is not a run; give for example "
                    'from = {variant = "pretrained", env = "walker-stand"}'
                )
            if fork is not None:
                raise BadInputError(f"variants.{name}: a fork cannot import an encoder; leave out fork or from")
            unfit = [entry for entry in ("take", "freeze_at") if entry in options]
            if unfit:
                raise BadInputError(
                    f"variants.{name}: {unfit[0]} cannot be given with from, whose encoder is frozen; leave it out"
                )
        return cls(tuple(own), options, fork, at, source.get("variant"), source.get("env"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


class _Maker:
    """Makes the jobs of variants, each after those that it needs. Raises BadInputError."""

    def __init__(self, settings: Mapping[str, Any], variants: Mapping[str, _Variant]) -> None:
        self.variants = variants
        self.jobs: dict[str, Job] = {}
        self._settings = _options(settings)
        self.ordered = list(self._parents_first())

    def _parents_first(self) -> Iterator[str]:
        waiting, done = list(self.variants), set[str]()
        for name in waiting:
            if _NAME.fullmatch(name) is None:
                raise BadInputError(f"variants.{name}: not a name; use letters, digits, dots and dashes")
            variant = self.variants[name]
            for entry, wanted in (("fork", variant.fork), ("from", variant.source)):
                if wanted is not None and wanted not in self.variants:
                    others = ", ".join(other for other in self.variants if other != name)
                    hint = f"name one of {others}" if others else f"add variants.{wanted}"
                    raise BadInputError(f"variants.{name}: {entry} = {wanted!r} is no variant; {hint}")
        while waiting:
            ready = [
                name for name in waiting if {self.variants[name].fork, self.variants[name].source} <= {None, *done}
            ]
            if not ready:
                way = "is a fork of itself" if self.variants[waiting[0]].fork else "imports from itself"
                raise BadInputError(f"variants.{waiting[0]}: {way}; name a variant that trains from step 0")
            for name in ready:
                waiting.remove(name)
                done.add(name)
                yield name

    def add(self, env: str, seed: int, name: str) -> None:
        """Make the job of a variant in `env`, and those that it needs, unless it is there already."""
        if _job_name(env, name, seed) in self.jobs:
            return
        variant = self.variants[name]
        parent = None if variant.fork is None else self._needed(env, seed, name, variant.fork)
        source_env = variant.source_env or env
        source = None if variant.source is None else self._needed(source_env, seed, name, variant.source)
        job = self._job(env, seed, name, parent, source)
        self.jobs[job.name] = job

    def _needed(self, env: str, seed: int, name: str, wanted: str) -> Job:
        envs = self.variants[wanted].envs
        if env not in envs:
            raise BadInputError(
                f"variants.{name}: {wanted} does not train on {env}; add it to the envs of {wanted}, or name one of "
                f"{', '.join(envs)}"
            )
        self.add(env, seed, wanted)
        return self.jobs[_job_name(env, wanted, seed)]

    def _job(self, env: str, seed: int, name: str, parent: Job | None, source: Job | None) -> Job:
        variant, common = self.variants[name], self._settings
        given = variant.options
        merged = {**common, **given} if parent is None else dict(given)
        if source is not None:
            merged.pop("freeze_at", None)  # of the settings
        if parent is None and isinstance(common.get("set"), dict) and isinstance(given.get("set"), dict):
            merged["set"] = {**common["set"], **given["set"]}
        kind: type[ResumeRequest] = RunRequest if parent is None else ForkRequest
        known = {field.name for field in dataclasses.fields(kind)} - set(_OWN if parent is None else ("at",))
        for entry in merged:
            if entry not in known:
                where = _place(name, entry in given)
                raise BadInputError(f"{where}: {entry} is unknown or cannot differ; {nearest(entry, sorted(known))}")
        if not isinstance(merged.get("set", {}), dict):
            where = _place(name, "set" in given)
            raise BadInputError(f"{where}: set must be a table, for example set = {{ batch_size = 64 }}")
        inherited = {} if parent is None else parent.all_options
        # --pipeline can be turned off. Other flags can only be left out.
        off = [entry for entry, value in merged.items() if value is False and entry != "pipeline"]
        kept = [entry for entry in off if inherited.get(entry) is True]
        if parent is not None and kept:
            raise BadInputError(
                f"variants.{name}: {kept[0]} = false: variant {parent.variant} has it, and a fork cannot turn it off; "
                "leave it out of both, or do not fork"
            )
        begin = {"env": env, "seed": seed} if parent is None else {}
        error = _refusal(kind, {**merged, **begin})
        if error is not None:
            own = parent is not None or _refusal(kind, {**common, **begin}) is None
            raise BadInputError(f"{_place(name, own)}: {error}") from error
        return Job(_job_name(env, name, seed), env, name, seed, merged, parent, variant.at, source=source)


def _refusal(kind: type[ResumeRequest], options: Mapping[str, Any]) -> BadInputError | None:
    try:
        kind.of(**options)
    except BadInputError as error:
        return error
    return None


def _place(variant: str, own: bool) -> str:
    """Return the table of the file that has an entry of a variant."""
    return f"variants.{variant}" if own else "settings"


def _job_name(env: str, variant: str, seed: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', env)}__{variant}__{seed}"
