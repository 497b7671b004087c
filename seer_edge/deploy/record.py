"""`seer-edge record`: play episodes and write them as demonstrations. Imports no torch."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.config.real_time import check_period, from_manifest
from seer_edge.deploy.act import fitting_limits
from seer_edge.envs import Action, Discrete, EnvOptions, EnvSpec, Frame
from seer_edge.envs.environment import Playable
from seer_edge.envs.games import LongPlay, episode_limit, game_seeds
from seer_edge.envs.guarded import ending, open_guarded
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.safety import AskedLimits
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import BadInputError, describe_error, written_to
from seer_edge.machine.signals import StopSignal
from seer_edge.runs.demos import DemoWriter
from seer_edge.runs.run_folder import check_outside_runs
from seer_edge.validation import check_target
from seer_runtime import durable
from seer_runtime.policy.actions import Numbered
from seer_runtime.policy.bundle import open_bundle
from seer_runtime.policy.policy import Policy
from seer_runtime.policy.preprocess import to_gray_levels
from seer_runtime.system.user_modules import import_user_module

LOG = logging.getLogger(__name__)
RANDOM = "random"
Choose = Callable[[Frame, bool], Action]
"""Returns the agent's action for a frame; the flag says whether the frame begins an episode."""


@dataclass(frozen=True)
class Recording:
    """What to play and how."""

    env: str
    options: EnvOptions
    policy: str
    episodes: int
    max_steps: int | None
    seed: int
    hz: float | None
    timeout_seconds: float | None


@dataclass(frozen=True)
class Recorded:
    """What was written; `signal` is the number of the signal that stopped it early."""

    env: str
    returns: tuple[float, ...]
    rows: int
    signal: int | None


def record(path: Path, what: Recording) -> Recorded:
    """Play episodes and write them to `path`, also those before an error.

    Raises BadInputError, EnvironmentFailedError.
    """
    check_target("-o", path)
    if path.exists():
        raise BadInputError(f"-o {path}: is there already; name another file, or delete it first")
    check_outside_runs(path, "-o")

    opened: list[DemoWriter] = []  # empty while the environment is built

    def give_up(reason: str) -> None:
        for writer in opened:
            with writer:
                _keep(path, writer)
        ending("record")(reason)

    env_seed, rng = game_seeds(what.seed, 0)
    with contextlib.ExitStack() as stack:
        with translate_errors(what.env, what.options):
            env = open_guarded(
                what.env,
                what.options,
                seed=env_seed,
                training=False,
                timeout_seconds=what.timeout_seconds,
                on_hang=give_up,
            )
        stack.callback(env.close)
        choose, limits = _policy(what, env.spec, rng)
        if limits is not None and what.timeout_seconds is not None:
            check_period(limits.hz, what.timeout_seconds)  # the rate may be that of the bundle
        stop = stack.enter_context(StopSignal())
        stack.enter_context(written_to("-o", path, "file"))
        writer = stack.enter_context(DemoWriter(path, env.spec, what.options.gray_levels))
        opened.append(writer)
        try:
            unfit = fitting_limits(f"--policy {what.policy}: its limits do not fit {what.env}", "give another policy")
            with unfit, in_real_time(env, limits) as playing:  # everything is at rest afterwards
                returns = _play(playing, choose, writer, what, stop)
        except BaseException:  # also a second Ctrl-C, if the policy hangs
            _keep(path, writer)
            raise
        if writer.rows:
            writer.write()
    return Recorded(env.spec.id, returns, writer.rows, stop.received)


def _keep(path: Path, writer: DemoWriter) -> None:
    """Write the rows of a recording that has failed, and end its last episode there."""
    if not writer.rows:
        return
    try:
        writer.cut()
        writer.write()
    except OSError as error:
        LOG.warning("%s: its %s rows cannot be written (%s)", path, f"{writer.rows:,}", error)
    else:
        LOG.warning("%s: holds the %s rows before the failure", path, f"{writer.rows:,}")


def _play(
    playing: Playable, choose: Choose, writer: DemoWriter, what: Recording, stop: StopSignal
) -> tuple[float, ...]:
    report, limit = LongPlay(what.episodes, what.max_steps), episode_limit(what.max_steps)
    returns: list[float] = []
    begins, total, length = True, 0.0, 0
    while len(returns) < what.episodes and not stop():
        if begins:
            frame = playing.reset()
            if stop():
                break
            writer.begin(new_scene=playing.new_scene)
        action = choose(frame, begins)
        step = playing.step(action)
        if step.discard:
            writer.cut()
            writer.begin(new_scene=True)
        else:
            writer.add(frame, action if step.action is None else step.action, step)
            total, length = total + step.reward, length + 1
        frame = step.frame
        over = step.terminated or step.truncated
        report(step.episode)
        begins = over or length == limit
        if begins:
            if not over:
                writer.cut()
            if step.episode is not None or not over or step.discard:
                returns.append(total)
                total, length = 0.0, 0
    writer.cut()
    return tuple(returns)


def _policy(what: Recording, spec: EnvSpec, rng: np.random.Generator) -> tuple[Choose, AskedLimits | None]:
    """Return the policy `random`, that of a bundle, or a function `module:name`, and the limits of its actions.

    There are limits in real time only: at the rate that is given, or else at that of the bundle's run. Raises
    BadInputError.
    """
    given, name = None if what.hz is None else AskedLimits(what.hz), what.policy
    if name == RANDOM:
        return lambda frame, begins: spec.actions.sample(rng), given
    if not Path(name).is_file():
        return _of_function(name, _function(name), spec), given
    choose, own = _of_bundle(Path(name), spec, what.options.gray_levels)
    return choose, given if own is None else replace(own, hz=what.hz or own.hz)


def _function(name: str) -> Callable[[Frame], Any]:
    module, colon, function = name.partition(":")
    if not colon:
        raise BadInputError(f"--policy {name}: no such file; give random, a bundle, or module:function")
    try:
        call = getattr(import_user_module(module), function)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise BadInputError(f"--policy {name}: {describe_error(error)}; give module:function") from error
    if not callable(call):
        raise BadInputError(f"--policy {name}: is not a function; give module:function")
    found: Callable[[Frame], Any] = call
    return found


def _of_bundle(path: Path, spec: EnvSpec, gray_levels: int | None) -> tuple[Choose, AskedLimits | None]:
    try:
        with open_bundle(path) as bundle:
            policy, limits = Policy.of(bundle), from_manifest(bundle.about)
    except (durable.CorruptFileError, OSError, ValueError) as error:
        raise BadInputError(f"--policy {path}: {error}; give a bundle that `export` wrote") from error
    if (policy.spec.discrete, policy.spec.actions) != (isinstance(spec.actions, Discrete), spec.actions.outputs):
        raise BadInputError(f"--policy {path}: has other actions than {spec.id}; give another")
    if policy.spec.frame_shape != spec.frame_shape:
        own, other = ("x".join(map(str, shape)) for shape in (policy.spec.frame_shape, spec.frame_shape))
        raise BadInputError(
            f"--policy {path}: sees frames of {own}, not of {other}; give the --resolution and --color of its run"
        )
    if policy.spec.resize != spec.resize:
        raise BadInputError(
            f"--policy {path}: sees frames that were resized by {policy.spec.resize}, not by {spec.resize}; give the "
            "--protocol of its run"
        )
    levels = policy.spec.gray_levels
    if gray_levels is not None and (levels is None or levels > gray_levels):
        hint = "leave out --gray-levels" if levels is None else f"give --gray-levels {levels}"
        raise BadInputError(f"--policy {path}: sees {levels or 256} gray levels, not {gray_levels}; {hint}")

    def choose(frame: Frame, begins: bool) -> Action:
        seen = frame if levels is None else to_gray_levels(frame, levels)
        return policy.decide(policy.perception.observe(seen, first=begins).input)

    return choose, limits


def _of_function(name: str, call: Callable[[Frame], Any], spec: EnvSpec) -> Choose:
    own = spec.own_actions

    def choose(frame: Frame, begins: bool) -> Action:
        try:
            given = call(frame)
        except (Exception, SystemExit) as error:
            raise BadInputError(f"--policy {name}: failed: {describe_error(error)}; correct the function") from error
        try:
            if own is not None:
                action: Action = own.of_agent(given)
            elif isinstance(spec.actions, Discrete):
                action = Numbered(0).of_agent(given)
            else:
                action = np.asarray(given, np.float32).reshape(spec.actions.outputs)
            if not spec.actions.holds(np.asarray(action)[None]):
                raise ValueError(f"not one of {spec.actions}")
        except (TypeError, ValueError) as error:
            raise BadInputError(f"--policy {name}: returned {given!r}: {error}; return an action") from error
        return action

    return choose
