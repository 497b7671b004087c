"""`seer-edge act` and `seer-edge eval BUNDLE`: play whole episodes with a bundle. Imports no torch."""

import array
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seer_edge.config.real_time import check_period, from_manifest
from seer_edge.config.registry import ALGORITHMS
from seer_edge.deploy.tally import ActionTally
from seer_edge.envs import Action, Discrete, EnvOptions, Frame, ResolutionError, ViewError, resolve
from seer_edge.envs.games import LongPlay, game_seeds, play
from seer_edge.envs.guarded import Guarded, ending, open_guarded
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.recorder import Recorder
from seer_edge.envs.safety import AskedLimits, LimitsError
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import BadInputError
from seer_edge.machine.signals import StopSignal
from seer_edge.runs.run_folder import bundle_hint
from seer_edge.validation import check_types
from seer_runtime import durable
from seer_runtime.durable.files import one_line
from seer_runtime.policy.bundle import EPISODES_MAX, SIDE_MAX, Bundle, PolicySpec, open_bundle
from seer_runtime.policy.perception import Observed
from seer_runtime.policy.policy import Policy
from seer_runtime.system.manifest_reader import ManifestReader
from seer_runtime.system.process import rss_peak_bytes

ACTION_REPEAT_MAX = 10_000
PERCENTILES = (50, 90, 99)


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """Context manager: open the bundle at `path`.

    Raises BadInputError for a file that is not a valid bundle, then and for damage that is found while it is read.
    """
    try:
        with open_bundle(path) as bundle:
            yield bundle
    except durable.CorruptFileError as error:
        raise BadInputError(f"{error}; {bundle_hint(path)}") from error
    except OSError as error:
        raise BadInputError(
            f"{path}: cannot be read ({error.strerror}); give a bundle from `seer-edge export`"
        ) from error


@dataclass(frozen=True)
class Origin:
    """The environment in which the policy of a bundle was trained, and the settings of its evaluation and control."""

    env: str
    options: EnvOptions
    epsilon: float
    episodes: int
    max_steps: int | None
    seed: int
    timestep: int
    limits: AskedLimits | None  # of control in real time

    @classmethod
    def of(cls, bundle: Bundle) -> "Origin":
        """Read them from the bundle's manifest. Raises BadInputError, which names the invalid field."""
        fields = ManifestReader(bundle.about)
        try:
            fields.choice("algo", ALGORITHMS)
            return cls(
                env=fields.text("environment.id"),
                options=replace(_options(fields), resize=bundle.spec.resize, gray_levels=bundle.spec.gray_levels),
                epsilon=fields.number("evaluation.epsilon", 0, 1),
                episodes=fields.count("evaluation.episodes", 1, EPISODES_MAX),
                max_steps=_max_steps(fields),
                seed=fields.count("provenance.seed", 0, 2**32 - 1),
                timestep=fields.count("provenance.timestep"),
                limits=from_manifest(bundle.about),
            )
        except ValueError as error:
            hint = bundle_hint(bundle.path)
            raise BadInputError(
                f"{bundle.path}: its manifest does not match this release ({one_line(error)}); {hint}"
            ) from error

    def options_for(self, env: str, spec: PolicySpec) -> EnvOptions:
        """Return the options for `env`: the training ones for the same environment.

        Another environment is shown by its observations, at the size that the policy expects.
        """
        env_id = resolve(env)
        if env_id.id == self.env:
            return self.options
        height, width = spec.frame_shape[-2:]
        options = replace(self.options, resolution=width if height == width else None, render=False)
        options = replace(options, obs_key=None, kwargs=None)
        # Atari and control tasks offer one color each. `_open` rejects frames of another shape.
        return options if env_id.kind == "gymnasium" else replace(options, color=None)


def _max_steps(fields: ManifestReader) -> int | None:
    if "max_steps" not in fields.record("evaluation"):  # of a run with the default, or of an earlier version
        return None
    return fields.count("evaluation.max_steps", 1)


def _options(fields: ManifestReader) -> EnvOptions:
    known = {field.name for field in dataclasses.fields(EnvOptions)} - {"gray_levels"}
    given = fields.record("environment.options", known)
    options = EnvOptions(**given)
    try:
        check_types(options)
    except ValueError as error:
        raise ValueError(f"environment.options.{one_line(error)[:100]}") from error
    if options.resolution is not None:
        fields.count("environment.options.resolution", 1, SIDE_MAX)
    if options.action_repeat is not None:
        fields.count("environment.options.action_repeat", 1, ACTION_REPEAT_MAX)
    return options


class Player:
    """Observes frames and chooses actions, and measures the time from frame to action, in `seconds`."""

    def __init__(self, policy: Policy, recorder: Recorder | None = None) -> None:
        self._policy = policy
        self._recorder = recorder
        self._perceiving = 0.0
        self.seconds = array.array("f")
        self.actions = ActionTally()

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        """Return the observation after the next frame, as `Observes` says, and record the frame."""
        if self._recorder is not None:
            self._recorder.show(frame)
        begin = time.perf_counter()
        observed = self._policy.perception.observe(frame, first=first)
        self._perceiving = time.perf_counter() - begin
        return observed

    def act(self, observed: Observed) -> Action:
        """Return the policy's action."""
        begin = time.perf_counter()
        action = self._policy.decide(observed.input)
        self.seconds.append(self._perceiving + time.perf_counter() - begin)
        self.actions.add(self._policy.spec.own(action))
        return action

    def milliseconds(self) -> dict[str, float]:
        """Return percentiles of the time from frame to action, in milliseconds."""
        values = np.percentile(np.frombuffer(self.seconds, np.float32), PERCENTILES) * 1e3
        return {f"p{percent}": round(float(value), 4) for percent, value in zip(PERCENTILES, values, strict=True)}


@dataclass(frozen=True)
class Game:
    """What to play and how. None selects the value with which the bundle's policy was evaluated."""

    env: str | None = None
    episodes: int | None = None
    seed: int | None = None
    epsilon: float | None = None
    threads: int | None = None
    timeout_seconds: float | None = None
    record: Path | None = None
    max_steps: int | None = None
    int8: bool = True  # whether the bundle's int8 encoder may be used


@dataclass(frozen=True)
class Played:
    """Episodes that a bundle played; `signal` is the number of the signal that stopped it early."""

    env: str
    timestep: int
    returns: tuple[float, ...]
    signal: int | None
    steps: int
    frame_to_action_ms: Mapping[str, float] | None
    actions: Mapping[str, Any]  # see `ActionTally`
    rss_peak_bytes: int
    encoder: str | None  # which encoder ran and why, if the bundle has two


def play_bundle(path: Path, game: Game) -> Played:
    """Play `game` with the bundle at `path`. Raises BadInputError, EnvironmentFailedError."""
    with opened(path) as bundle:
        origin = Origin.of(bundle)
        policy = Policy.of(bundle, threads=game.threads or 1, int8=game.int8)
    env = origin.env if game.env is None else game.env
    env_seed, rng = game_seeds(origin.seed if game.seed is None else game.seed, origin.timestep)
    episodes = game.episodes or origin.episodes
    max_steps = game.max_steps or origin.max_steps
    report = LongPlay(episodes, max_steps)
    epsilon = origin.epsilon if game.epsilon is None else game.epsilon
    returns: list[float] = []
    if origin.limits is not None and game.timeout_seconds is not None:
        check_period(origin.limits.hz, game.timeout_seconds)
    steps = 0
    with (
        closing(_open(env, origin, policy.spec, env_seed, game.timeout_seconds)) as environment,
        StopSignal() as stop,
        Recorder.writing(game.record) as recorder,
        fitting_limits(f"--env {env}: does not fit the limits of this policy", f"use an environment like {origin.env}"),
        in_real_time(environment, origin.limits) as playing,
    ):
        player = Player(policy, recorder)
        for episode in play(playing, player, player.act, epsilon=epsilon, rng=rng, max_steps=max_steps, stop=stop):
            steps += 1
            report(episode)
            if episode is not None:
                returns.append(episode.episode_return)
            if len(returns) == episodes:
                break
    return Played(
        env=environment.spec.id,
        timestep=origin.timestep,
        returns=tuple(returns),
        signal=stop.received,
        steps=steps,
        frame_to_action_ms=player.milliseconds() if player.seconds else None,
        actions=player.actions.to_json(),
        rss_peak_bytes=rss_peak_bytes(),
        encoder=None if policy.choice is None else str(policy.choice),
    )


@contextmanager
def fitting_limits(reason: str, hint: str) -> Iterator[None]:
    """Context manager: report limits of a bundle that do not fit the environment, with what to do there."""
    try:
        yield
    except LimitsError as error:
        raise BadInputError(f"{reason} ({error.reason}); {hint}") from error


def _open(env: str, origin: Origin, spec: PolicySpec, seed: int, timeout_seconds: float | None) -> Guarded:
    """Build the environment and check that the policy can play it. Raises BadInputError."""
    hint = f"use an environment like {origin.env}"
    with translate_errors(env, origin.options):
        options = origin.options_for(env, spec)
        build = functools.partial(
            open_guarded, env, seed=seed, training=False, timeout_seconds=timeout_seconds, on_hang=ending("act")
        )
        try:
            environment = _build_viewed(build, options, rendered=origin.options.render)
        except ViewError as error:
            raise ViewError(error.reason, hint) from error
        except ResolutionError as error:
            needed = f"frames of {options.resolution}x{options.resolution}, which this policy needs"
            raise BadInputError(f"--env {env}: has no {needed}; {hint}") from error
    shown, actions = environment.spec.frame_shape, environment.spec.actions
    if shown != spec.frame_shape:
        reason = f"has frames of {list(shown)}, but this policy needs {list(spec.frame_shape)}"
    elif (isinstance(actions, Discrete), actions.outputs) != (spec.discrete, spec.actions):
        kind = "actions" if spec.discrete else "continuous actions"
        reason = f"has {actions}, but this policy has {spec.actions} {kind}"
    else:
        return environment
    environment.close()
    raise BadInputError(f"--env {env}: {reason}; {hint}")


def _build_viewed(build: Callable[[EnvOptions], Guarded], options: EnvOptions, *, rendered: bool) -> Guarded:
    """Build the environment with its observed images.

    Where it observes none, and the policy was trained on `rendered` images, build it with rendered ones.
    """
    try:
        return build(options)
    except ViewError:
        if options.render or not rendered:
            raise
        return build(replace(options, render=True))
