"""Short runs that show how fast this machine trains the runs of a sweep, and how long their episodes are.

There are two kinds. One learns, before the freeze and after it. Environments with the same agent and frames share it.
The other plays random actions in one environment, until a few episodes have ended.
"""

import dataclasses
import itertools
import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.plan import BytePlan
from seer_edge.errors import RunStoppedError
from seer_edge.runs.run_folder import RunFolder
from seer_edge.sweeps.cost import Kind, Rates, Speed, kind_of
from seer_edge.sweeps.engine import STOP_STATUSES, Engine, Running, Task
from seer_edge.sweeps.measurement import LearningSteps, episodes_of, play_seconds, rates_of, rows_of
from seer_edge.sweeps.runner import steps_of
from seer_edge.sweeps.spec import Job

LOG = logging.getLogger(__name__)
EVALUATION_STEPS = 300
GAMES, PLAY_STEPS, PLAY_STEPS_MIN = 4, 4_000, 100
"""A run that plays ends after so many episodes or steps."""
PLAY_SECONDS, PLAY_SECONDS_MAX = 20.0, 90.0
"""It also ends after so many seconds if an episode has ended, and after so many if none has."""
PLAY_LOG_STEPS = 50
POLL_SECONDS = 0.1

_TRACKERS = ("wandb", "mlflow", "tensorboard", "tensorboard_dir")
_REPORTS = (*_TRACKERS, "eval_video", "analyze", "keep_best", "stop_at_return", "keep_checkpoint")
_FREEZE = ("freeze_layers", "latent_codec", "augmentations", "from_", "take")
"""Options that these runs leave out, and those that a run that plays leaves out too."""


@dataclass(frozen=True)
class Learner:
    """What decides how long an update takes, before the freeze and after it. `latent` is None without a freeze."""

    pixel: str
    latent: str | None
    imports: bool

    @classmethod
    def of(cls, plan: BytePlan) -> "Learner":
        """Return the learner of a plan."""
        config, env = plan.config, plan.env
        settings = dataclasses.replace(config.settings, learning_starts=0, random_steps=0)
        family = config.env.partition("/")[0]
        place = family if family in ("ALE", "dm_control") else config.env
        agent = (config.algo, config.encoder, settings, config.replay, config.store)
        machine = (config.threads, config.pipeline, config.device)
        latent = (config.latent_codec, config.augmentations, config.freeze_layers)
        return cls(
            pixel=repr((agent, machine, place, env.frame_shape, env.crop_shape, config.gray_levels)),
            latent=None if config.freeze_at is None else repr(latent),
            imports=config.source is not None,
        )

    def shows(self, other: "Learner") -> bool:
        """Return whether a short run with this learner shows what one with the `other` would."""
        part = not (self.imports or other.imports) and other.latent is None and self.pixel == other.pixel
        return self == other or part


@dataclass
class ShortRun:
    """A short run that is waiting, runs or has ended, after `took` seconds."""

    task: Task
    text: str
    plays: bool = False
    began: float = 0.0
    took: float = 0.0
    played_since: float | None = None
    was_stopped: bool = False

    @property
    def folder(self) -> RunFolder:
        """Its run."""
        return RunFolder(self.task.log.with_suffix(""))

    def has_played_enough(self) -> bool:
        """Return whether a run that plays may be stopped."""
        if not self.plays or not steps_of(self.folder.path):
            return False
        if self.played_since is None:
            self.played_since = time.monotonic()
        ended = self.folder.episodes.read_bytes().count(b"\n") - 1  # without the header
        seconds = time.monotonic() - self.played_since
        return ended >= GAMES or seconds > (PLAY_SECONDS if ended > 0 else PLAY_SECONDS_MAX)


class Calibration:
    """The short runs for some jobs, in the folder `place`.

    Attributes:
        learners: the kind of job whose short run shows the speed of each learner.
        players: the kind of job that plays each environment.

    """

    def __init__(
        self, plans: Mapping[Kind, BytePlan], jobs: Sequence[Job], engine: Engine, place: Path, plugins: Sequence[str]
    ) -> None:
        self._plans, self._engine, self._place, self._jobs = plans, engine, place, len(jobs)
        self._plugins = [word for module in plugins for word in ("--plugin", module)]
        self._first: dict[Kind, Job] = {}
        for job in jobs:
            needed: Job | None = job
            while needed is not None:  # the runs that encoders come from are measured first
                self._first.setdefault(kind_of(needed), needed)
                needed = needed.imports
        learners: dict[Learner, Kind] = {}
        for kind in self._first:
            learners.setdefault(Learner.of(plans[kind]), kind)
        shown = {one for one in learners if any(other != one and other.shows(one) for other in learners)}
        self.learners = {one: kind for one, kind in learners.items() if one not in shown}
        self.players: dict[str, Kind] = {}
        for kind in self._first:
            self.players.setdefault(self._environment(kind), kind)
        self._begun = 0

    def measure(self, stop: Callable[[], bool]) -> dict[Kind, Speed] | None:
        """Run everything; return None once `stop()` is true. Raises RunStoppedError if a short run fails."""
        rates: dict[Learner, Rates] = {}
        while len(rates) < len(self.learners):
            # The short run of a source comes before those that import its encoder.
            ready = [
                learner
                for learner, kind in self.learners.items()
                if learner not in rates and (self._first[kind].imports is None or self._source(kind) in rates)
            ]
            learning = [self._learning(self.learners[learner]) for learner in ready]
            slots = self._engine.slots(learning[0].task.threads, learning[0].task.rss_bytes)
            # Fewer of them than run at a time: load the machine as the sweep will.
            copied = itertools.islice(itertools.cycle(ready), max(0, min(slots, self._jobs) - len(ready)))
            copies = [self._learning(self.learners[learner], number) for number, learner in enumerate(copied)]
            if not self._run([*learning, *copies], stop):
                return None
            for learner, short in zip(ready, learning, strict=True):
                steps = LearningSteps.of(self._plans[self.learners[learner]])
                rates[learner] = rates_of(rows_of(short.folder), short.took, steps)
        playing = {key: self._playing(kind) for key, kind in self.players.items()}
        if not self._run(list(playing.values()), stop):
            return None
        folders = {key: short.folder for key, short in playing.items()}
        return {kind: self._speed(kind, rates, folders) for kind in self._first}

    def _speed(self, kind: Kind, rates: Mapping[Learner, Rates], played: Mapping[str, RunFolder]) -> Speed:
        learner = self._measured(kind)
        here, there = played[self._environment(kind)], played[self._environment(self.learners[learner])]
        slower = play_seconds(rows_of(here)) - play_seconds(rows_of(there))
        return Speed(rates[learner].shifted(slower), episodes_of(here))

    def _measured(self, kind: Kind) -> Learner:
        """Return the learner whose short run shows the speed of this kind of job."""
        wanted = Learner.of(self._plans[kind])
        return next(learner for learner in self.learners if learner.shows(wanted))

    def _source(self, kind: Kind) -> Learner:
        """Return the learner whose short run this kind of job imports its encoder from."""
        source = self._first[kind].imports
        assert source is not None
        return self._measured(kind_of(source))

    def _environment(self, kind: Kind) -> str:
        config = self._plans[kind].config
        return repr((config.env, config.env_options))

    def _learning(self, kind: Kind, copy: int | None = None) -> ShortRun:
        job, plan, steps = self._first[kind], self._plans[kind], LearningSteps.of(self._plans[kind])
        options = {name: value for name, value in job.all_options.items() if name not in _REPORTS}
        options |= {"total_timesteps": steps.total, "log_every": steps.interval, "checkpoint_every": "24h"}
        options["eval_every"] = "never" if plan.config.eval_every is None else steps.total
        longest = min(EVALUATION_STEPS, plan.config.eval_limit_steps)
        options |= {"eval_episodes": 1, "eval_max_steps": longest}
        options["set"] = {**options.get("set", {}), "learning_starts": steps.warm_up, "random_steps": 0}
        source = None
        if job.imports is None and plan.config.source is None:
            options["freeze_at"] = steps.warm_up + steps.pixel if steps.latent else "never"
        elif job.imports is not None:
            source = dataclasses.replace(job.imports, name=_name("learn", self.learners[self._source(kind)]))
        name = _name("learn", kind) if copy is None else _name(f"copy-{copy}", kind)
        text = "" if copy is not None else f"updates of {kind[1]}, {plan.env.name}"
        return ShortRun(self._task(kind, name, options, source), text)

    def _playing(self, kind: Kind) -> ShortRun:
        plan = self._plans[kind]
        steps = min(PLAY_STEPS, max(PLAY_STEPS_MIN, GAMES * plan.config.eval_limit_steps))
        given = self._first[kind].all_options
        options = {name: value for name, value in given.items() if name not in (*_REPORTS, *_FREEZE)}
        options |= {"total_timesteps": steps, "log_every": PLAY_LOG_STEPS, "checkpoint_every": "24h"}
        options |= {"eval_every": "never", "freeze_at": "never"}
        options["set"] = {**options.get("set", {}), "learning_starts": steps, "random_steps": steps}
        text = f"episodes of {plan.env.name} with random actions"
        return ShortRun(self._task(kind, _name("play", kind), options, None), text, plays=True)

    def _task(self, kind: Kind, name: str, options: Mapping[str, Any], source: Job | None) -> Task:
        plan, job = self._plans[kind], self._first[kind]
        root = dataclasses.replace(job, name=name, options=options, parent=None, at=None, keeps=(), source=source)
        words = [*self._plugins, *root.words(self._place)]
        return Task(words, self._place / f"{name}.log", plan.rss_peak_bytes, plan.config.threads)

    def _run(self, waiting: list[ShortRun], stop: Callable[[], bool]) -> bool:
        """Run short runs to their ends, or until `stop()`. Return whether they have ended."""
        running: list[tuple[ShortRun, Running]] = []
        try:
            while (waiting or running) and not stop():
                while waiting and self._engine.has_room(waiting[0].task, [one.task for _, one in running]):
                    running.append(self._start(waiting.pop(0)))
                for short, process in list(running):
                    if _has_ended(short, process):
                        running.remove((short, process))
                time.sleep(POLL_SECONDS)
        finally:
            for _, process in running:
                process.stop()
            while any(process.status() is None for _, process in running):
                time.sleep(POLL_SECONDS)
        return not (waiting or running)

    def _start(self, short: ShortRun) -> tuple[ShortRun, Running]:
        if short.text:
            self._begun += 1
            LOG.info("measuring %s (%d of %d)", short.text, self._begun, len(self.learners) + len(self.players))
        short.began = time.monotonic()
        return short, self._engine.start(short.task)


def _has_ended(short: ShortRun, process: Running) -> bool:
    """Return whether a short run has ended; stop it if it has played enough. Raises RunStoppedError if it failed."""
    status = process.status()
    if status is None:
        if not short.was_stopped and short.has_played_enough():
            short.was_stopped = True  # a second signal would end it at once
            process.stop()
        return False
    short.took = time.monotonic() - short.began
    if status != 0 and not (short.was_stopped and status in STOP_STATUSES):
        last = short.task.log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise RunStoppedError(f"a calibration ended with status {status}: {last[0]}")
    return True


def _name(use: str, kind: Kind) -> str:
    return "__".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in (use, *kind))


def measure(
    plans: Mapping[Kind, BytePlan],
    jobs: Sequence[Job],
    engine: Engine,
    folder: Path,
    plugins: Sequence[str],
    stop: Callable[[], bool],
) -> dict[Kind, Speed] | None:
    """Measure the speed of each kind of job, with as many short runs at a time as the sweep in `folder` would have.

    Return None if `stop()` became true before the end; the short runs are stopped then.

    Raises RunStoppedError if a short run fails.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".seer-edge-", dir=engine.scratch(folder)) as name:
            return Calibration(plans, jobs, engine, Path(name), plugins).measure(stop)
    except OSError as error:
        raise RunStoppedError(f"a calibration cannot be run ({error}); make room in the temporary folder") from error
