"""The configuration of a run: every setting resolved, validated at construction, written to `config.json`."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from seer_edge.config.earlier_versions import BEFORE_RECORDED
from seer_edge.config.presets import Settings
from seer_edge.config.real_time import check_real_time
from seer_edge.config.recorded_env import env_from_json, env_to_json
from seer_edge.config.registry import ALGORITHMS, check_settings
from seer_edge.config.request import EVAL_IN, PROTOCOLS, REPLAYS, STORES, TAKES, EvalIn, StoreName, check_timeout
from seer_edge.config.values import AUTO
from seer_edge.envs import EnvOptions, EnvSpec, ProtocolName
from seer_edge.envs.games import episode_limit
from seer_edge.envs.safety import REST_AFTER_SECONDS
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.validation import check_types
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.policy.preprocess import COLORS, GRAY_LEVELS, RESIZES, Color, Resize
from seer_runtime.replay.codecs import LATENT_CODECS

Value = TypeVar("Value")

LONG = 2**40
"""Steps of a long run."""
LOG_EVERY_STEPS = 1_000
CHECKPOINT_EVERY_SECONDS = 1800.0
"""48 checkpoints a day, which an SD card bears."""
ENV_TIMEOUT_SECONDS = 60.0
"""An environment that does not answer for so long counts as hanging."""
SEED_MAX = 2**32 - 1
MAX_THREADS = 256
MAX_EPISODES = 10_000  # their returns fit into summary.json
MAX_AUGMENTATIONS = MAX_BATCH - 1  # encoded in one call with the center crop


ORIGIN = {"run": str, "step": int, "checkpoint": str}


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of one run. Steps are agent steps, sizes are bytes.

    Raises BadInputError, which names the flag, or ValueError, which names the entry, for a value that cannot be used.
    """

    env: str  # resolved id, which `make_env` accepts
    env_name: str
    preset: str  # its name, or the path of its file
    mem_budget_bytes: int
    total_timesteps: int
    freeze_at: int | None  # T_f, the latest one with auto; None for never, 0 if the encoder is imported
    freeze_reason: str
    settings: Settings
    algo: str = "rainbow"
    encoder: str = "data-efficient"
    protocol: ProtocolName = "paper"
    resolution: int | None = None  # None: the environment's own
    action_repeat: int | None = None  # None: the environment's own
    color: Color | None = None  # None: the environment's own
    gray_levels: int | None = None  # that frames are reduced to; None: they keep all 256
    render_observations: bool = False
    obs_key: str | None = None  # the picture in observations that are a dictionary
    env_kwargs: dict[str, Any] | None = None  # arguments for the environment
    resize: Resize = "area"  # how screens become frames
    blank_at_lost_life: bool = False  # whether a lost life blanks the frame stack, as in older runs
    freeze_layers: int | None = None  # None: all
    latent_codec: str = "float32"  # auto up to the freeze, then the chosen one
    augmentations: int = 1  # K
    source: str | None = None  # the run or bundle whose encoder is imported
    take: str | None = None  # what is imported from it; None: of a bundle also the learner and the rows that fit
    demos: str | None = None  # file of demonstrations that fills the replay before the first step
    replay: str = "uniform"
    store: StoreName = "paper"  # rows of a fixed size as in the paper, or compressed blocks of rows
    seed: int = 0
    threads: int = 1
    pipeline: bool = True  # update on a second thread, from the batch of the step before
    device: str = "cpu"
    eval_every: int | None = 10_000  # None: no evaluation, not even at the end
    eval_episodes: int = 10
    eval_in: EvalIn = "separate"  # the environment that evaluations play
    eval_max_steps: int | None = None  # of an episode; None: `games.EPISODE_STEPS_MAX`
    stop_at_return: float | None = None  # mean return of an evaluation at which the run ends
    keep_best: bool = False  # whether to keep the policy of the best evaluation
    eval_video: bool = False  # whether to record evaluations
    log_every: int = LOG_EVERY_STEPS
    checkpoint_every_steps: int | None = None  # exactly one of the two is set
    checkpoint_every_seconds: float | None = CHECKPOINT_EVERY_SECONDS
    rss_limit_bytes: int | None = None
    env_timeout_seconds: float = ENV_TIMEOUT_SECONDS
    tensorboard: bool = False
    tensorboard_dir: str | None = None  # None: `tb` in the run's folder
    wandb: str | None = None  # project of Weights & Biases, or entity/project
    mlflow: str | None = None  # folder or server of MLflow
    status_port: str | None = None  # PORT or HOST:PORT of the status page
    overrides: tuple[str, ...] = ()  # `name=value` of every hyperparameter that --set changed
    freeze_window: int | None = None  # steps between two comparisons of --freeze-at auto; None: a fixed step
    keep_checkpoint: tuple[int, ...] = ()  # steps whose checkpoints are never removed
    analyze: bool = False  # whether to keep the encoder's weights at some steps
    hz: float | None = None  # control ticks a second; None: the environment waits for the agent
    max_updates_per_step: int = 1  # with hz
    min_updates_per_step: float = 0.2  # with hz: fewer give a warning
    rest_after_seconds: float = REST_AFTER_SECONDS  # with hz: a step later than that brings the environment to rest
    action_limit: tuple[float, float] | None = None  # with hz: of every control, in [-1, 1]
    control_socket: str | None = None  # with hz: path of a Unix domain socket that takes commands
    slew_rate: tuple[float, ...] | None = None  # with hz: most change a second of every control, or of each
    schedule_timesteps: int | None = None  # steps that exploration and replay weights are scheduled for; None: all
    origin: dict[str, Any] | None = None  # of a fork: the run, the step and the SHA-256 of its checkpoint's manifest
    environment: EnvSpec | None = None  # as it was when the run began; None in runs of earlier versions

    def __post_init__(self) -> None:
        _one_of("--protocol", self.protocol, PROTOCOLS)
        _one_of("--replay", self.replay, REPLAYS)
        _one_of("--store", self.store, STORES)
        check_algo(self.algo)
        _one_of("--encoder", self.encoder, tuple(ENCODERS))
        _one_of("--latent-codec", self.latent_codec, (*LATENT_CODECS, AUTO))
        if self.take is not None:
            _one_of("--take", self.take, TAKES)
        if self.color is not None:
            _one_of("--color", self.color, COLORS)
        if self.gray_levels is not None:
            _one_of("--gray-levels", self.gray_levels, GRAY_LEVELS)
        _one_of("resize", self.resize, RESIZES)
        check_types(self)
        check_settings(self.algo, self.settings)
        _require(self.mem_budget_bytes >= 1, "--mem-budget", self.mem_budget_bytes, "give at least one byte")
        _at_least_one("--total-timesteps", self.total_timesteps)
        _at_least_one("schedule_timesteps", self.schedule_steps)
        _require(1 <= self.threads <= MAX_THREADS, "--threads", self.threads, f"give 1 to {MAX_THREADS}")
        self._check_evaluation()
        self._check_rest()
        _at_least_one("--log-every", self.log_every)
        steps, seconds = self.checkpoint_every_steps, self.checkpoint_every_seconds
        if (steps is None) == (seconds is None):
            raise ValueError(f"checkpoint_every: {steps} steps and {seconds} seconds; set exactly one")
        if steps is not None:
            _at_least_one("--checkpoint-every", steps)
        if seconds is not None:
            _require(1 <= seconds < math.inf, "--checkpoint-every", f"{seconds:g}s", "give at least one second")
        if self.rss_limit_bytes is not None:
            _at_least_one("--rss-limit", self.rss_limit_bytes)
        check_timeout(self.env_timeout_seconds)
        _require(0 <= self.seed <= SEED_MAX, "--seed", self.seed, f"give a whole number from 0 to {SEED_MAX}")
        self._check_augmentations()
        if self.freeze_layers is not None:
            frozen = self.freeze_at is not None
            _require(
                frozen,
                "--freeze-layers",
                self.freeze_layers,
                "--freeze-at never freezes nothing; leave one of the two out",
            )
        if self.source is not None:
            _require(
                self.latent_codec != AUTO,
                "--latent-codec",
                self.latent_codec,
                "needs rows of frames to choose by, and a run with --from has none; "
                f"choose one of {', '.join(self.latent_codecs)}",
            )
            _require(self.freeze_at == 0, "--freeze-at", self.freeze_at, "--from freezes at step 0; leave it out")
        elif self.freeze_at is not None:
            _at_least_one("--freeze-at", self.freeze_at)
            _require(
                self.freeze_at <= self.total_timesteps,
                "--freeze-at",
                self.freeze_at,
                f"the run ends at step {self.total_timesteps}; give an earlier step, or never",
            )

    def _check_augmentations(self) -> None:
        """Raise BadInputError. Frames that are not cropped have only one view to store."""
        env, most = self.environment, MAX_AUGMENTATIONS
        if env is not None and env.crop_shape == env.frame_shape[-2:]:
            hint = f"{env.name} is not cropped; leave it out"
            _require(self.augmentations == 1, "--augmentations", self.augmentations, hint)
        _require(1 <= self.augmentations <= most, "--augmentations", self.augmentations, f"give 1 to {most}")

    def _check_rest(self) -> None:
        if self.analyze and self.source is not None and self.freeze_layers is None:
            raise BadInputError("--analyze: the encoder of --from never changes; leave one of the two out")
        if self.freeze_window is not None:
            _at_least_one("freeze_window", self.freeze_window)
        check_real_time(self)
        if self.action_repeat is not None:
            _at_least_one("action_repeat", self.action_repeat)
        if self.origin is not None and {name: type(value) for name, value in self.origin.items()} != ORIGIN:
            raise ValueError(f"origin: {self.origin} is not a run, a step and a checksum")
        for step in self.keep_checkpoint:
            hint = f"the run ends at step {self.total_timesteps}; give a step from 0 to that"
            _require(0 <= step <= self.total_timesteps, "--keep-checkpoint", step, hint)

    def _check_evaluation(self) -> None:
        _one_of("--eval-in", self.eval_in, EVAL_IN)
        for flag, value in (("--eval-every", self.eval_every), ("--eval-max-steps", self.eval_max_steps)):
            if value is not None:
                _at_least_one(flag, value)
        most, episodes = MAX_EPISODES, self.eval_episodes
        _require(1 <= episodes <= most, "--eval-episodes", episodes, f"give 1 to {most:,}")
        target = self.stop_at_return
        if target is not None:
            _require(math.isfinite(target), "--stop-at-return", target, "give a finite number")
        stop_flag = "" if target is None else f"--stop-at-return {target:g}"
        for flag in (stop_flag, "--keep-best" * self.keep_best, "--eval-video" * self.eval_video):
            if flag and self.eval_every is None:
                raise BadInputError(f"{flag}: needs evaluations, and --eval-every never turns them off; leave one out")

    def is_complete(self, timestep: int, evaluated_at: int, mean_return: float | None) -> bool:
        """Whether nothing is left to do at `timestep`.

        The last evaluation was at step `evaluated_at`, with `mean_return`.
        """
        evaluated = evaluated_at == timestep
        target = self.stop_at_return
        if target is not None and evaluated and mean_return is not None and mean_return >= target:
            return True
        return timestep == self.total_timesteps and (evaluated or self.eval_every is None)

    @property
    def schedule_steps(self) -> int:
        """Steps in which exploration falls and the weights of prioritized replay rise."""
        return self.total_timesteps if self.schedule_timesteps is None else self.schedule_timesteps

    @property
    def has_schedules(self) -> bool:
        """Whether the length of the run changes how it learns."""
        return self.replay == "prioritized" or self.settings.for_run(1) != self.settings.for_run(LONG)

    @property
    def evaluates_in_training(self) -> bool:
        """Whether evaluations play the training environment. In real time there is no other."""
        return self.eval_in == "training" or self.hz is not None

    @property
    def eval_limit_steps(self) -> int:
        """Agent steps after which an evaluation episode is cut off."""
        return episode_limit(self.eval_max_steps)

    @property
    def compact(self) -> bool:
        """Whether the replay compresses its rows."""
        return self.store == "compact"

    @property
    def env_options(self) -> EnvOptions:
        """The options that `make_env` needs beside the id."""
        return EnvOptions(
            self.protocol,
            self.resolution,
            self.action_repeat,
            self.color,
            self.render_observations,
            self.resize,
            self.blank_at_lost_life,
            self.obs_key,
            self.env_kwargs,
            self.gray_levels,
        )

    @property
    def latent_codecs(self) -> tuple[str, ...]:
        """The codecs that this run can use for its own rows.

        An imported encoder leaves no frames to calibrate on. Only imported rows bring a calibrated codec then.
        """
        return tuple(name for name, codec in LATENT_CODECS.items() if self.source is None or not codec.calibrated)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `config.json`."""
        environment = None if self.environment is None else env_to_json(self.environment)
        return {**dataclasses.asdict(self), "environment": environment}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainConfig":
        """Return the configuration that `to_json` wrote.

        Raises BadInputError for missing, unknown or invalid entries.
        """
        try:
            entries = {**BEFORE_RECORDED, **data}
            check_algo(entries["algo"])
            settings = _read(ALGORITHMS[entries["algo"]].settings, dict(entries.pop("settings")))
            if entries["environment"] is not None:
                names = (entries["env"], entries["env_name"], entries["resize"])
                entries["environment"] = env_from_json(entries["environment"], *names)
            return _read(cls, {**entries, "settings": settings})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"config.json: not a configuration of this version ({error})") from error
        except BadInputError as error:
            raise BadInputError(f"config.json: {error}") from error


def _read(kind: type[Value], entries: dict[str, Any]) -> Value:
    """Build a dataclass from all of its fields. None may be missing, because `to_json` writes every one."""
    missing = {field.name for field in dataclasses.fields(cast(Any, kind))} - set(entries)
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} missing")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})


def _require(holds: bool, flag: str, value: object, hint: str) -> None:
    if not holds:
        raise BadInputError(f"{flag} {value}: {hint}")


def _at_least_one(flag: str, value: int) -> None:
    _require(value >= 1, flag, value, "give a whole number of at least 1")


EXTENDABLE = ("--algo", "--encoder", "--latent-codec")
"""Flags whose values a plugin may add to."""


def _one_of(flag: str, value: str | int, choices: tuple[str | int, ...]) -> None:
    more = ", or load the module that adds it with --plugin" if flag in EXTENDABLE else ""
    _require(value in choices, flag, value, f"choose one of {', '.join(map(str, choices))}{more}")


def check_algo(algo: str) -> None:
    """Raise BadInputError for the name of no agent."""
    _one_of("--algo", algo, tuple(ALGORITHMS))


def keep_schedules(changed: TrainConfig, before: TrainConfig) -> TrainConfig:
    """Return the settings `changed` of a run that had `before`. With another length its schedules stay as they were."""
    steps = before.schedule_steps if changed.has_schedules else changed.total_timesteps
    return dataclasses.replace(changed, schedule_timesteps=None if steps == changed.total_timesteps else steps)
