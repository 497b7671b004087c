"""Evaluating runs and bundles, and exporting bundles."""

import importlib.util
import logging
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seer_edge.api import planning
from seer_edge.api.results import EvaluationResult, ExportResult, RecordResult
from seer_edge.config.config import ENV_TIMEOUT_SECONDS, MAX_EPISODES, MAX_THREADS
from seer_edge.config.real_time import check_period
from seer_edge.config.request import ResumeRequest, RunRequest, flag_of
from seer_edge.envs.guarded import closing_idle
from seer_edge.errors import BadInputError
from seer_edge.runs import checkpoint, run_folder
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.run_folder import RunFolder
from seer_edge.runs.source import is_bundle
from seer_edge.validation import path_of
from seer_runtime.policy.bundle import EXTRAS
from seer_runtime.system.state import State

if TYPE_CHECKING:
    from seer_edge.deploy.act import Game  # which imports ONNX Runtime

LOG = logging.getLogger(__name__)


@closing_idle()
def evaluate(
    run: str | os.PathLike[str],
    *,
    episodes: int | None = None,
    max_steps: int | None = None,
    best: bool = False,
    seed: int | None = None,
    record: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str | None = None,
    progress_bar: bool = False,
) -> EvaluationResult:
    """Play whole episodes with the newest undamaged checkpoint of a run, or with a bundle.

    Args:
        run: the folder of a run, or a file that `export` wrote. Bundles do not need torch.
        episodes: number of episodes. None uses the number of the run, as for all of the following numbers.
        max_steps: agent steps at which an episode is cut off.
        best: whether to use the best checkpoint of a run with `keep_best`, instead of the newest.
        seed: seed of the environment and of random actions, from 0 to 2**32 - 1.
        record: new .mp4 file for the frames that the agent sees, of all episodes.
        threads: compute threads, from 1 to 256.
        device: "cpu" or "cuda"; bundles run on the CPU.
        progress_bar: show a bar on stderr, if that is a terminal.

    Returns:
        Raw returns of the episodes; none if a signal stopped the evaluation of a run.

    Raises:
        BadInputError: `run` is neither a run nor a bundle, or an option cannot be used.
        EnvironmentFailedError: the environment failed.

    Examples:
        >>> import seer_edge
        >>> result = seer_edge.evaluate("runs/camera", episodes=2)
        >>> len(result.returns), result.timestep
        (2, 140)

    """
    _check_numbers(episodes=episodes, max_steps=max_steps, seed=seed, threads=threads)
    path, film = path_of("RUN", run), None if record is None else path_of("--record", record)
    if not is_bundle(path):
        given: dict[str, Any] = {"eval_episodes": episodes, "eval_max_steps": max_steps, "device": device}
        given |= {"seed": seed, "threads": threads}
        return _evaluate_run(path, given, best=best, record=film, progress_bar=progress_bar)
    if best or device not in (None, "cpu"):
        flag = "--best: a bundle has one policy" if best else f"--device {device}: a bundle runs on the CPU"
        raise BadInputError(f"{flag}; leave it out")
    from seer_edge.deploy.act import Game

    game = Game(
        episodes=episodes,
        seed=seed,
        threads=threads,
        timeout_seconds=ENV_TIMEOUT_SECONDS,
        record=film,
        max_steps=max_steps,
        int8=False,  # as the run itself is evaluated
    )
    return _play(path, game)


def _evaluate_run(
    path: Path, given: dict[str, Any], *, best: bool, record: Path | None, progress_bar: bool
) -> EvaluationResult:
    """Evaluate a checkpoint of the run at `path` under the settings `given` that are not None."""
    folder = run_folder.open_run(path, "the --run-dir of a run, or a bundle")
    episodes = given["eval_episodes"] or 1
    if episodes > MAX_EPISODES:
        raise BadInputError(f"--episodes {episodes}: give at most {MAX_EPISODES:,}, or evaluate its bundle")
    saved, agent = saved_agent(folder, best=best)
    changed = replace(saved.config, **{name: value for name, value in given.items() if value is not None})
    plan = planning.plan_again(changed, folder, frozen=saved.frozen)
    saved.check_fits(plan)
    with planning.learner_needed():
        from seer_edge.machine.host import prepare_compute
        from seer_edge.training.evaluate import evaluate_run
    prepare_compute(plan.config)
    evaluation, signal = evaluate_run(plan, saved, agent, record=record, progress_bar=progress_bar)
    return EvaluationResult(plan.env.id, saved.timestep, () if evaluation is None else evaluation.returns, signal)


def act(
    bundle: str | os.PathLike[str],
    *,
    env: str | None = None,
    episodes: int = 10,
    max_steps: int | None = None,
    seed: int | None = None,
    epsilon: float = 0.0,
    record: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    env_timeout: float | str | None = None,
) -> EvaluationResult:
    """Play whole episodes with a bundle, and measure how long a frame takes to become an action.

    Needs no torch. The policy of a run in real time is played at its rate and within its limits. `Policy` acts on
    frames of your own instead of an environment.

    Args:
        bundle: a file that `export` wrote.
        env: the environment to play; None is the one that the agent was trained on.
        episodes: number of episodes.
        max_steps: agent steps at which an episode is cut off; None is the number of the run.
        seed: seed of the environment and of random actions; None is that of the run.
        epsilon: probability of a random action, from 0 to 1.
        record: new .mp4 file for the frames that the agent sees.
        threads: compute threads, 1 by default.
        env_timeout: seconds as float, or a time such as "60s", that the environment may take for an answer.

    Returns:
        Raw returns, latencies and peak memory. Fewer episodes than asked for if a signal stopped it.

    Raises:
        BadInputError: `bundle` is not a sound bundle, or an option cannot be used.
        EnvironmentFailedError: the environment failed.

    Examples:
        >>> import seer_edge
        >>> result = seer_edge.act("policy.seer", episodes=1)
        >>> result.steps, sorted(result.frame_to_action_ms)
        (100, ['p50', 'p90', 'p99'])

    """
    _check_numbers(episodes=episodes, max_steps=max_steps, seed=seed, threads=threads)
    if not 0 <= epsilon <= 1:
        raise BadInputError(f"--epsilon {epsilon}: give a number from 0 to 1")
    from seer_edge.deploy.act import Game

    game = Game(
        env=env,
        episodes=episodes,
        max_steps=max_steps,
        seed=seed,
        epsilon=epsilon,
        threads=threads,
        timeout_seconds=_seconds(env_timeout),
        record=None if record is None else Path(record),
    )
    return _play(Path(bundle), game)


@closing_idle()
def record(
    env: str,
    output: str | os.PathLike[str],
    *,
    policy: str = "random",
    episodes: int = 10,
    max_steps: int | None = None,
    seed: int = 0,
    hz: float | None = None,
    env_timeout: float | str | None = None,
    **options: Any,
) -> RecordResult:
    """Play episodes and write them as demonstrations, for `train(demos=...)`.

    Needs no torch.

    Args:
        env: an Atari game, a control task, a Gymnasium id or "module:Id", as `--env` takes it.
        output: file to write, which must not exist yet.
        policy: "random", the path of a bundle, or "module:function", a function that takes a frame and returns an
            action of the environment.
        episodes: number of episodes.
        max_steps: agent steps at which an episode is cut off, 27,000 by default.
        seed: seed of the environment and of random actions.
        hz: actions a second. None is the rate of a bundle's run in real time, else the environment waits.
        env_timeout: seconds as float, or a time such as "60s", that the environment may take for an answer.
        **options: the options of `train` for frames: `env_kwargs`, `resolution`, `color`, `gray_levels`,
            `render_observations`, `obs_key` and `protocol`.

    Returns:
        The file, the raw returns, and the number of rows. Fewer episodes than asked for if a signal stopped it.

    Raises:
        BadInputError: an option cannot be used, `output` cannot be written, or the policy failed.
        EnvironmentFailedError: the environment failed. Rows that were recorded before an error are written.

    Examples:
        >>> import seer_edge
        >>> result = seer_edge.record("camera_env:Camera-v0", "demos.seer", episodes=1)
        >>> result.rows
        101

    """
    _check_numbers(episodes=episodes, max_steps=max_steps, seed=seed)
    from seer_edge.deploy import record as recording

    request, timeout_seconds = RunRequest.of(env=env, hz=hz, **options), _seconds(env_timeout)
    check_period(request.hz, timeout_seconds)
    what = recording.Recording(
        env=env,
        options=request.env_options,
        policy=policy,
        episodes=episodes,
        max_steps=max_steps,
        seed=seed,
        hz=request.hz,
        timeout_seconds=timeout_seconds,
    )
    written = recording.record(path_of("-o", output), what)
    return RecordResult(Path(output), written.env, written.returns, written.rows, written.signal)


@closing_idle()
def export(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    with_: Collection[str] = (),
    int8: bool = False,
    best: bool = False,
) -> ExportResult:
    """Write the newest undamaged checkpoint of a run as a bundle: one file that acts without torch.

    The environment is opened only for `int8`, and for runs of earlier versions.

    Args:
        run: the folder of a run.
        output: file to write, for example "policy.seer". An older bundle is replaced.
        with_: extra parts: "learner" for heads and optimizers, "replay" for the rows of the replay.
        int8: also write an int8 encoder, which a device uses if it is faster there.
        best: write the best checkpoint of a run with `keep_best`, instead of the newest.

    Returns:
        The file, and its parts with their sizes.

    Raises:
        BadInputError: `run` is not a run, it lacks a part, or `output` cannot be written.

    Examples:
        >>> import numpy as np
        >>> import seer_edge
        >>> seer_edge.export("runs/camera", "policy.seer").timestep
        140
        >>> policy = seer_edge.Policy.load("policy.seer")
        >>> policy.reset()
        >>> action = policy.act(np.zeros((120, 160, 3), np.uint8))
        >>> action in (0, 1, 2)
        True

    """
    unknown = [name for name in with_ if name not in EXTRAS]
    if unknown:
        raise BadInputError(f"--with {unknown[0]}: unknown value; choose one of {', '.join(EXTRAS)}")
    if importlib.util.find_spec("onnx") is None:
        raise BadInputError("onnx is missing; pip install 'seer-edge[train]'")
    from seer_edge.deploy.export import write_bundle

    path = path_of("-o", output)
    folder = run_folder.open_run(path_of("RUN", run))
    saved, agent = saved_agent(folder, best=best)
    plan = planning.recorded_plan(saved.config, folder, frozen=saved.frozen)
    saved.check_fits(plan)
    lines = write_bundle(path, folder, saved, agent, plan, with_, int8=int8)
    return ExportResult(path, plan.env.id, saved.timestep, tuple(lines))


def _play(path: Path, game: "Game") -> EvaluationResult:
    from seer_edge.deploy.act import play_bundle

    played = play_bundle(path, game)
    return EvaluationResult(
        env=played.env,
        timestep=played.timestep,
        returns=played.returns,
        signal=played.signal,
        steps=played.steps,
        frame_to_action_ms=played.frame_to_action_ms,
        actions=played.actions,
        rss_peak_bytes=played.rss_peak_bytes,
        encoder=played.encoder,
    )


def saved_agent(folder: RunFolder, *, best: bool) -> tuple[Saved, State]:
    """Return the newest undamaged checkpoint, or the best one, and its agent's state. Raises BadInputError."""
    if best and not folder.best.is_dir():
        raise BadInputError(f"--best: {folder.path} has no best checkpoint; train with --keep-best, or leave it out")
    saved, agent = checkpoint.newest_agent(folder.best if best else folder.checkpoints, acting_only=best)
    for line in saved.skipped:
        LOG.warning(line)
    return saved, agent


def _seconds(value: float | str | None) -> float:
    """Return the time that an environment may take for an answer. Raises BadInputError."""
    given = ResumeRequest.of(env_timeout=value).env_timeout
    return ENV_TIMEOUT_SECONDS if given is None else given


def _check_numbers(**numbers: int | None) -> None:
    """Raise BadInputError for an option that is not a whole number in its range."""
    ranges = {
        "episodes": (1, 2**31 - 1),
        "max_steps": (1, 2**31 - 1),
        "seed": (0, 2**32 - 1),
        "threads": (1, MAX_THREADS),
    }
    for name, value in numbers.items():
        least, most = ranges[name]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
            raise BadInputError(f"{flag_of(name)} {value}: give a whole number from {least} to {most}")
