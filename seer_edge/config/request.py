"""What a user asks for, before anything is resolved. The command line and the Python API build the same requests."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, cast, get_args

from seer_edge.config.real_time import check_rate, check_rate_given
from seer_edge.config.values import (
    NEVER,
    parse_action_limit,
    parse_checkpoint_every,
    parse_control_socket,
    parse_freeze_at,
    parse_hz,
    parse_json_object,
    parse_memory,
    parse_mlflow,
    parse_number,
    parse_return,
    parse_seconds,
    parse_slew_rate,
    parse_status_port,
    parse_steps_or_never,
    parse_time,
    parse_wandb,
)
from seer_edge.envs import EnvOptions, ProtocolName
from seer_edge.errors import BadInputError
from seer_edge.validation import check_types
from seer_runtime.policy.preprocess import COLORS, GRAY_LEVELS, Color
from seer_runtime.system.units import MAX_SECONDS

AGENT, ENCODER = "agent", "encoder"
TAKES = (AGENT, ENCODER)
PROTOCOLS = ("paper", "machado")
REPLAYS = ("uniform", "prioritized")
StoreName = Literal["paper", "compact"]
STORES = get_args(StoreName)
EvalIn = Literal["training", "separate"]
EVAL_IN = get_args(EvalIn)
CHOICES: Mapping[str, tuple[str | int, ...]] = {
    "color": COLORS,
    "gray_levels": GRAY_LEVELS,
    "protocol": PROTOCOLS,
    "take": TAKES,
    "replay": REPLAYS,
    "store": STORES,
    "eval_in": EVAL_IN,
}
"""Values of the options that have a fixed set of them."""

_TEXT: Mapping[str, Callable[[str], Any]] = {
    "mem_budget": parse_memory,
    "rss_limit": parse_memory,
    "freeze_at": parse_freeze_at,
    "checkpoint_every": parse_checkpoint_every,
    "env_timeout": parse_seconds,
    "env_kwargs": parse_json_object,
    "eval_every": parse_steps_or_never,
    "stop_at_return": parse_return,
    "wandb": parse_wandb,
    "mlflow": parse_mlflow,
    "status_port": parse_status_port,
    "control_socket": parse_control_socket,
    "hz": parse_hz,
    "min_updates_per_step": parse_number,
    "rest_after": parse_time,
    "action_limit": parse_action_limit,
    "slew_rate": parse_slew_rate,
}
"""Options that may also be given as text with a unit."""


@dataclass(frozen=True, kw_only=True)
class ResumeRequest:
    """Settings that a resumed run may change. None keeps what the run has.

    Sizes are bytes, times are seconds. `checkpoint_every` is a number of steps as int, a time as float.
    """

    mem_budget: int | None = None
    rss_limit: int | None = None
    total_timesteps: int | None = None
    threads: int | None = None
    device: str | None = None
    checkpoint_every: int | float | None = None
    env_timeout: float | None = None
    eval_every: int | Literal["never"] | None = None
    eval_episodes: int | None = None
    eval_in: EvalIn | None = None
    eval_max_steps: int | None = None
    stop_at_return: float | Literal["never"] | None = None
    keep_checkpoint: tuple[int, ...] | None = None  # steps
    analyze: bool | None = None
    eval_video: bool | None = None
    wandb: str | None = None  # a project, entity/project or "never"
    mlflow: str | None = None  # a folder, the URL of a server or "never"
    status_port: str | None = None  # PORT, HOST:PORT or "never"
    hz: float | None = None  # control ticks a second
    max_updates_per_step: int | None = None
    min_updates_per_step: float | None = None
    rest_after: float | None = None
    action_limit: tuple[float, float] | None = None  # low and high, in [-1, 1]
    control_socket: str | None = None  # a path or "never"
    slew_rate: tuple[float, ...] | None = None  # a second; one number, or one for each control

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build a request from the options of the Python API, or from parsed flags.

        Sizes and times may be text with a unit. Raises BadInputError, which names the flag, and TypeError for an
        unknown option.
        """
        return cls(**{name: _converted(name, value) for name, value in options.items()})

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name, None) not in (None, *choices):
                flag = f"{flag_of(name)} {getattr(self, name)}"
                raise BadInputError(f"{flag}: unknown value; choose one of {', '.join(map(str, choices))}")
        try:
            check_types(self)
        except ValueError as error:
            name, _, reason = str(error).partition(" ")
            as_text = f", or text as {flag_of(name)} takes it" if name in _TEXT else ""
            raise BadInputError(f"{flag_of(name)}: {reason}{as_text}") from error
        # These are needed to open the environment, before there is a configuration.
        check_timeout(self.env_timeout)
        check_rate(self.hz)

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of `TrainConfig` that are given, without those that are None."""
        given = {
            "mem_budget_bytes": self.mem_budget,
            "rss_limit_bytes": self.rss_limit,
            "total_timesteps": self.total_timesteps,
            "threads": self.threads,
            "device": self.device,
            "env_timeout_seconds": self.env_timeout,
            "eval_every": self.eval_every,
            "eval_episodes": self.eval_episodes,
            "eval_in": self.eval_in,
            "eval_max_steps": self.eval_max_steps,
            "stop_at_return": self.stop_at_return,
            "keep_checkpoint": self.keep_checkpoint,
            "analyze": self.analyze,
            "eval_video": self.eval_video,
            "wandb": self.wandb,
            "mlflow": self.mlflow,
            "status_port": self.status_port,
            "hz": self.hz,
            "max_updates_per_step": self.max_updates_per_step,
            "min_updates_per_step": self.min_updates_per_step,
            "rest_after_seconds": self.rest_after,
            "action_limit": self.action_limit,
            "slew_rate": self.slew_rate,
            "control_socket": self.control_socket,
        }
        fields: dict[str, Any] = {
            name: None if value == NEVER else value for name, value in given.items() if value is not None
        }
        if self.checkpoint_every is not None:
            in_steps = isinstance(self.checkpoint_every, int)
            fields["checkpoint_every_steps"] = self.checkpoint_every if in_steps else None
            fields["checkpoint_every_seconds"] = None if in_steps else self.checkpoint_every
        return fields


@dataclass(frozen=True, kw_only=True)
class RunRequest(ResumeRequest):
    """A new run as the user asks for it.

    None leaves an option to the preset, the environment or the imported encoder.
    """

    env: str
    preset: str | None = None  # a name, or the path of a TOML file
    algo: str | None = None
    set: tuple[tuple[str, Any], ...] = ()  # hyperparameters by name
    encoder: str | None = None
    resolution: int | None = None
    color: str | None = None
    gray_levels: int | None = None
    render_observations: bool = False
    obs_key: str | None = None
    env_kwargs: dict[str, Any] | None = None
    protocol: str | None = None
    from_: str | None = None  # a run's folder or a bundle
    take: str | None = None
    demos: str | None = None  # a file that `record` wrote
    freeze_at: int | Literal["never", "auto"] | None = None
    freeze_layers: int | None = None
    latent_codec: str | None = None
    augmentations: int | None = None
    replay: str = "uniform"
    store: StoreName = "paper"
    seed: int = 0
    pipeline: bool = True
    keep_best: bool = False
    log_every: int | None = None
    tensorboard: bool = False
    tensorboard_dir: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            json.dumps(self.env_kwargs, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInputError(f"--env-kwargs: not JSON ({error}); give texts, numbers, lists and objects") from error

    @property
    def env_options(self) -> EnvOptions:
        """How the environment is shown and stepped, as far as the request says."""
        protocol, color = cast(ProtocolName, self.protocol or PROTOCOLS[0]), cast("Color | None", self.color)
        return EnvOptions(
            protocol,
            self.resolution,
            color=color,
            render=self.render_observations,
            obs_key=self.obs_key,
            kwargs=self.env_kwargs,
            gray_levels=self.gray_levels,
        )

    def filled(self, defaults: Mapping[str, Any]) -> "RunRequest":
        """Return this request with `defaults` for those of its options that are None."""
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def config_options(self) -> dict[str, Any]:
        """Return what `build_config` takes beside the environment's spec. Raises BadInputError."""
        check_rate_given(self.hz, self.config_fields())
        own = {field.name for field in dataclasses.fields(RunRequest)} - {
            field.name for field in dataclasses.fields(ResumeRequest)
        }
        renamed = {"from_": "source", "set": "overrides"}
        options = {renamed.get(name, name): getattr(self, name) for name in sorted(own - {"env"})}
        options["overrides"] = dict(self.set)
        options["protocol"] = self.env_options.protocol
        if self.tensorboard_dir is not None:
            options["tensorboard_dir"] = str(Path(self.tensorboard_dir).absolute())
        # None means the preset's there, and "never" no evaluation.
        return options | self.config_fields() | {"eval_every": self.eval_every}


@dataclass(frozen=True, kw_only=True)
class ForkRequest(ResumeRequest):
    """Settings that a fork may have instead of its parent's. None keeps the parent's."""

    at: int | None = None  # step of the checkpoint; None: the newest
    set: tuple[tuple[str, Any], ...] = ()  # hyperparameters by name
    freeze_at: int | Literal["never", "auto"] | None = None
    freeze_layers: int | None = None
    latent_codec: str | None = None
    augmentations: int | None = None
    seed: int | None = None

    def fork_fields(self) -> dict[str, Any]:
        """Return the given fields of `TrainConfig` that only a fork may change, without those of --freeze-at."""
        names = ("freeze_layers", "latent_codec", "augmentations", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class ResumeOptions(TypedDict, total=False):
    """Options of `seer_edge.resume`, with the names and units of the flags. None keeps what the run has.

    A size is a number of bytes or text such as "0.07GB". A time is a number of seconds as float, or text such as
    "10min". `seer-edge resume --help` and docs/cli.md give the meaning of each.
    """

    mem_budget: int | str | None
    rss_limit: int | str | None
    total_timesteps: int | None
    threads: int | None
    device: str | None
    checkpoint_every: int | float | str | None
    env_timeout: float | str | None
    eval_every: int | str | None
    eval_episodes: int | None
    eval_in: str | None
    eval_max_steps: int | None
    stop_at_return: float | str | None
    keep_checkpoint: Sequence[int] | None
    analyze: bool | None
    eval_video: bool | None
    wandb: str | None
    mlflow: str | os.PathLike[str] | None
    status_port: int | str | None
    hz: float | None
    max_updates_per_step: int | None
    min_updates_per_step: float | None
    rest_after: float | str | None
    action_limit: Sequence[float] | str | None
    slew_rate: float | Sequence[float] | str | None
    control_socket: str | os.PathLike[str] | None


class ForkOptions(ResumeOptions, total=False):
    """Options of `seer_edge.fork`, with the names and units of the flags. None keeps what the parent has.

    They include those of `ResumeOptions`. `seer-edge fork --help` and docs/cli.md give the meaning of each.
    """

    at: int | None
    set: Mapping[str, Any]
    freeze_at: int | str | None
    freeze_layers: int | None
    latent_codec: str | None
    augmentations: int | None
    seed: int | None


class RunOptions(ResumeOptions, total=False):
    """Options of `seer_edge.plan` and `seer_edge.train`, with the names, units and defaults of the flags.

    They include those of `ResumeOptions`. `seer-edge train --help` and docs/cli.md give the meaning of each.
    """

    preset: str | None
    algo: str | None
    set: Mapping[str, Any]
    encoder: str | None
    resolution: int | None
    color: str | None
    gray_levels: int | None
    render_observations: bool
    obs_key: str | None
    env_kwargs: Mapping[str, Any] | str | None
    protocol: str | None
    from_: str | os.PathLike[str] | None
    take: str | None
    demos: str | os.PathLike[str] | None
    freeze_at: int | str | None
    freeze_layers: int | None
    latent_codec: str | None
    augmentations: int | None
    replay: str
    store: str
    seed: int
    pipeline: bool
    keep_best: bool
    log_every: int | None
    tensorboard: bool
    tensorboard_dir: str | os.PathLike[str] | None


def check_timeout(seconds: float | None) -> None:
    """Raise BadInputError unless an environment may take so many `seconds` for an answer; None is the default."""
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise BadInputError(f"--env-timeout {seconds:g}s: give a time above 0s and up to a year")


def has_flag(name: str) -> bool:
    """Whether the command line has a flag for the configuration entry `name`."""
    return name.removesuffix("_bytes") in {field.name for field in dataclasses.fields(RunRequest)} - {"set"}


def flag_of(name: str) -> str:
    """Return the flag of an option: `mem_budget` and `mem_budget_bytes` are set by --mem-budget."""
    return "--" + name.removesuffix("_bytes").strip("_").replace("_", "-")


def _converted(name: str, value: Any) -> Any:
    if name == "env_kwargs" and isinstance(value, Mapping):
        return dict(value)
    if name == "set":
        return tuple(value.items()) if isinstance(value, Mapping) else tuple(value or ())
    if name in ("keep_checkpoint", "action_limit", "slew_rate") and isinstance(value, list | tuple):
        return tuple(value)
    if name == "slew_rate" and isinstance(value, int | float):
        return (value,)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if name == "status_port" and type(value) is int:
        value = str(value)
    if isinstance(value, str) and name in _TEXT:
        try:
            return _TEXT[name](value)
        except ValueError as error:
            raise BadInputError(f"{flag_of(name)}: {error}") from error
    return value
