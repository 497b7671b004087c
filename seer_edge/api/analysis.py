"""Analysis of the layers of runs."""

import itertools
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seer_edge.api import planning
from seer_edge.api.policies import saved_agent
from seer_edge.api.results import AnalysisResult
from seer_edge.config.config import MAX_THREADS
from seer_edge.config.plan import BytePlan
from seer_edge.envs.guarded import closing_idle
from seer_edge.errors import BadInputError
from seer_edge.reports.build import check_packages
from seer_edge.runs import run_folder
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.snapshots import Snapshots
from seer_edge.validation import path_of
from seer_runtime.system.memory import memory_limits
from seer_runtime.system.state import State
from seer_runtime.system.units import format_size

if TYPE_CHECKING:
    from seer_edge.analysis.figures import AnalyzedRun  # which imports torch
    from seer_edge.analysis.measure import Probe

LOG = logging.getLogger(__name__)
DEFAULT_ROWS = 3_000
"""Observations of a probe. Raghu et al. (2017) need several times as many as a layer has neurons."""
ROWS_MIN, ROWS_MAX = 16, 10**9


@dataclass(frozen=True)
class _Opened:
    """A run that can be analyzed."""

    folder: RunFolder
    plan: BytePlan
    saved: Saved
    state: State
    agent: Any  # an `Agent`, for the layers of its heads
    snapshots: Snapshots
    steps: list[int]
    pairs: list[tuple[int, int]]
    frozen_at: int | None


@closing_idle()
def analyze(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    rows: int = DEFAULT_ROWS,
    apart: int | None = None,
    threads: int | None = None,
    progress_bar: bool = False,
) -> AnalysisResult:
    """Write figures and tables of how the layers of runs changed while they learned (Section 5.5 of the paper).

    The runs need snapshots, which `train` with `analyze` keeps. The newest policy of each run plays until it has seen
    `rows` observations. All snapshots of the run are compared on them.

    Args:
        runs: folders of runs. They may be unfinished, and of several games.
        output: folder for the files.
        rows: observations of each run. Fewer than 3,000 make fcs look more similar than they are.
        apart: agent steps between the snapshots that are compared. Default: each with the next one.
        threads: compute threads, from 1 to 256. Default: as the run.
        progress_bar: show a bar on stderr, if that is a terminal.

    Returns:
        The folder, the names of its files, and the results as text.

    Raises:
        BadInputError: a folder is not a run or has no snapshots, an option cannot be used, the files cannot be written,
            or a package of the extra `report` is missing.
        EnvironmentFailedError: the environment failed.

    Examples:
        >>> import seer_edge
        >>> run = seer_edge.train(
        ...     "camera_env:Camera-v0", mem_budget="4MB", total_timesteps=60, freeze_at=40, analyze=True,
        ...     eval_every="never", set={"batch_size": 8, "learning_starts": 30}, run_dir="runs/analyzed",
        ... )
        >>> result = seer_edge.analyze(["runs/analyzed"], "analysis", rows=50)
        >>> "svcca.png" in result.files, "similarity.csv" in result.files
        (True, True)

    """
    if isinstance(runs, str | os.PathLike):
        raise BadInputError(f"analyze: {str(runs)!r} is one path; give a list of folders")
    if not runs:
        raise BadInputError("analyze: no run; name at least one folder")
    _check_number("--rows", rows, ROWS_MIN, ROWS_MAX)
    for flag, value, most in (("--apart", apart, ROWS_MAX), ("--threads", threads, MAX_THREADS)):
        if value is not None:
            _check_number(flag, value, 1, most)
    check_packages(("matplotlib",))
    with planning.learner_needed():
        from seer_edge.analysis.build import check_output, summary_of, write_analysis
    target = path_of("-o", output)
    check_output(target)
    opened = [_open(path_of("RUN", run), rows, apart, threads) for run in runs]
    labels = _labels([found.folder.path for found in opened])
    measured = [_measure(label, found, rows, progress_bar) for label, found in zip(labels, opened, strict=True)]
    files = write_analysis([run for run, _ in measured], {run.label: probe for run, probe in measured}, target)
    summary = [line for run, _ in measured for line in summary_of(run)]
    return AnalysisResult(target, tuple(files), tuple(summary))


def _check_number(flag: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadInputError(f"{flag} {value!r}: give a whole number from {least} to {most}")


def _open(path: Path, rows: int, apart: int | None, threads: int | None) -> _Opened:
    """Check that a run can be analyzed. Raises BadInputError."""
    folder = run_folder.open_run(path)
    snapshots = Snapshots(folder.analysis)
    steps = snapshots.steps()
    if not steps:
        raise BadInputError(f"{path}: has no snapshots of its encoder; train with --analyze")
    saved, state = saved_agent(folder, best=False)
    config = saved.config if threads is None else replace(saved.config, threads=threads)
    plan = planning.recorded_plan(config, folder, frozen=saved.frozen)
    saved.check_fits(plan)
    with planning.learner_needed():
        from seer_edge.analysis.layers import head_shapes, new_agent
        from seer_edge.analysis.measure import pairs_of
    agent = new_agent(plan)
    shapes = head_shapes(agent)
    for step in steps:  # reports a damaged one before anything is played
        snapshots.read(step, plan.encoder.weight_shapes, shapes)
    pairs = pairs_of(steps, apart or 1)
    if apart is not None and not pairs:
        most = steps[-1] - steps[0]
        raise BadInputError(
            f"--apart {apart}: the snapshots of {path} are at most {most} steps apart; give that or less"
        )
    _check_memory(plan, agent, len(steps), rows)
    return _Opened(folder, plan, saved, state, agent, snapshots, steps, pairs, saved.freeze_step)


def _check_memory(plan: BytePlan, agent: Any, snapshots: int, rows: int) -> None:
    """Raise BadInputError if an analysis of `rows` observations does not fit into memory."""
    from seer_edge.analysis.measure import needed_bytes

    limits = memory_limits()
    free = min(limits.available_bytes, limits.cgroup_bytes or limits.available_bytes)
    needed = needed_bytes(plan.encoder, agent, snapshots, rows)
    if needed > free:
        raise BadInputError(
            f"--rows {rows}: needs about {format_size(needed)}, and {format_size(free)} are available; give fewer"
        )


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return a different name for each run: that of its folder, numbered where several have the same."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(text for text in itertools.chain([name], numbered) if text not in names))
    return names


def _measure(label: str, run: _Opened, rows: int, progress_bar: bool) -> "tuple[AnalyzedRun, Probe]":
    """Play, and measure the encoder at all snapshots. Raises BadInputError and EnvironmentFailedError."""
    with planning.learner_needed():
        from seer_edge.analysis.figures import AnalyzedRun
        from seer_edge.analysis.layers import head_shapes
        from seer_edge.analysis.measure import Probe, measure
        from seer_edge.machine.host import is_out_of_memory, prepare_compute
        from seer_edge.training.probe import collect
    plan = planning.plan_again(run.plan.config, run.folder, frozen=run.saved.frozen)
    prepare_compute(plan.config)
    encoder, shape = plan.encoder, plan.env.frame_shape
    try:
        with closing(_Bar(label, shown=progress_bar and sys.stderr.isatty())) as done:
            stacks, filled = collect(plan, run.saved, run.state, rows, lambda count: done("observations", count, rows))
            probe = Probe(stacks, filled, channels=shape[0] if len(shape) == 3 else 1)
            measured = measure(
                encoder,
                run.agent,
                run.steps,
                lambda step: run.snapshots.read(step, encoder.weight_shapes, head_shapes(run.agent)),
                probe,
                run.pairs,
                done,
            )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise BadInputError(f"--rows {rows}: does not fit into memory; give fewer") from error
    return AnalyzedRun(label, measured, rows, run.frozen_at), probe


class _Bar:
    """A progress bar for each part of the work; without bars, a message at the beginning of each part."""

    def __init__(self, label: str, *, shown: bool) -> None:
        from tqdm import tqdm

        self._make, self._label, self._shown = tqdm, label, shown
        self._what: str | None = None
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done of the part `what`."""
        if what != self._what:
            self.close()
            self._what = what
            self._bar = self._make(total=total, desc=f"{self._label}: {what}", disable=not self._shown)
            if not self._shown:
                LOG.info("%s: %s", self._label, what)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
