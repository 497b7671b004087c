"""The configuration of a run: everything resolved, validated where it is built, written to `config.json`."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from seer_edge.config.presets import Preset, RainbowSettings, SacSettings, preset_for
from seer_edge.config.registry import ALGORITHMS, check_actions
from seer_edge.envs import EnvOptions, EnvSpec, ProtocolName
from seer_edge.envs.actions import Continuous
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.validation import check_types
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.policy.preprocess import COLORS, RESIZES, Color, Resize
from seer_runtime.replay.codecs import CALIBRATED, LATENT_ELEMENT_BYTES

Value = TypeVar("Value")

NEVER = "never"
AUTO = "auto"
"""--latent-codec: the densest whose error is small, chosen at the freeze (`seer_edge.training.codec_choice`)."""
SHORT_RUN_FRACTION = 0.4
SHORT_RUN_FACTOR = 2.5
LOG_EVERY_STEPS = 1_000
CHECKPOINT_EVERY_SECONDS = 1800.0
"""Kind to SD cards: 48 generations a day."""
ENV_TIMEOUT_SECONDS = 60.0
"""After which an environment that does not answer counts as hanging."""
MAX_THREADS = 256
MAX_AUGMENTATIONS = MAX_BATCH - 1  # encoded in one call with the center crop

PROTOCOLS = ("paper", "machado")
REPLAYS = ("uniform", "prioritized")
BEFORE_RECORDED = {"resize": "area", "blank_at_lost_life": True}
"""What runs did whose configuration was written before it said so."""


@dataclass(frozen=True)
class TrainConfig:
    """One run. Steps are agent steps, sizes are bytes."""

    env: str  # resolved id, as `make_env` takes it
    env_name: str
    preset: str
    mem_budget_bytes: int
    total_timesteps: int
    freeze_at: int | None  # T_f; None for never, 0 where the encoder comes from another run
    freeze_reason: str
    settings: RainbowSettings | SacSettings
    algo: str = "rainbow"
    encoder: str = "data-efficient"
    protocol: ProtocolName = "paper"
    resolution: int | None = None  # None: the environment's own
    action_repeat: int | None = None  # None: the environment's own
    color: Color | None = None  # None: the environment's own
    render_observations: bool = False
    resize: Resize = "area"  # how screens become frames
    blank_at_lost_life: bool = False  # whether a lost life begins a new scene, as before the configuration said so
    freeze_layers: int | None = None  # None: all
    latent_codec: str = "float32"  # auto up to the freeze, from there on what was chosen
    augmentations: int = 1  # K
    source: str | None = None  # the run or bundle whose encoder is taken
    replay: str = "uniform"
    seed: int = 0
    threads: int = 1
    pipeline: bool = True  # learn from the batch of the step before, beside the environment
    device: str = "cpu"
    eval_every: int = 10_000
    eval_episodes: int = 10
    log_every: int = LOG_EVERY_STEPS
    checkpoint_every_steps: int | None = None  # at most one of the two
    checkpoint_every_seconds: float | None = CHECKPOINT_EVERY_SECONDS
    rss_limit_bytes: int | None = None
    env_timeout_seconds: float = ENV_TIMEOUT_SECONDS
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _one_of("--protocol", self.protocol, PROTOCOLS)
        _one_of("--replay", self.replay, REPLAYS)
        _one_of("--algo", self.algo, tuple(ALGORITHMS))
        _one_of("--encoder", self.encoder, tuple(ENCODERS))
        _one_of("--latent-codec", self.latent_codec, (*LATENT_ELEMENT_BYTES, AUTO))
        if self.color is not None:
            _one_of("--color", self.color, COLORS)
        _one_of("resize", self.resize, RESIZES)
        check_types(self)
        if not isinstance(self.settings, ALGORITHMS[self.algo].settings):
            raise ValueError(f"settings are not those of algo {self.algo}")
        if isinstance(self.settings, SacSettings) and self.settings.contrastive != (self.algo == "curl-sac"):
            raise ValueError(f"algo {self.algo} cannot have contrastive {self.settings.contrastive}")
        _require(self.mem_budget_bytes >= 1, "--mem-budget", self.mem_budget_bytes, "give at least one byte")
        _at_least_one("--total-timesteps", self.total_timesteps)
        _require(1 <= self.threads <= MAX_THREADS, "--threads", self.threads, f"give 1 to {MAX_THREADS}")
        _at_least_one("--eval-every", self.eval_every)
        _at_least_one("--eval-episodes", self.eval_episodes)
        _at_least_one("log_every", self.log_every)
        steps, seconds = self.checkpoint_every_steps, self.checkpoint_every_seconds
        if (steps is None) == (seconds is None):
            raise ValueError(f"checkpoint_every: {steps} steps and {seconds} seconds; one of them is needed")
        if steps is not None:
            _at_least_one("--checkpoint-every", steps)
        if seconds is not None:
            _require(1 <= seconds < math.inf, "--checkpoint-every", f"{seconds:g}s", "give at least one second")
        if self.rss_limit_bytes is not None:
            _at_least_one("--rss-limit", self.rss_limit_bytes)
        timeout = self.env_timeout_seconds
        _require(0 < timeout < math.inf, "--env-timeout", f"{timeout:g}s", "give a time above 0s")
        if self.action_repeat is not None:
            _at_least_one("action_repeat", self.action_repeat)
        _require(0 <= self.seed < 2**32, "--seed", self.seed, "give a whole number from 0 to 4294967295")
        most = MAX_AUGMENTATIONS
        _require(1 <= self.augmentations <= most, "--augmentations", self.augmentations, f"give 1 to {most}")
        if self.freeze_layers is not None:
            frozen = self.freeze_at is not None
            _require(
                frozen,
                "--freeze-layers",
                self.freeze_layers,
                "nothing is frozen under --freeze-at never; leave one of them out",
            )
        if self.source is not None:
            _require(
                self.latent_codec != AUTO,
                "--latent-codec",
                self.latent_codec,
                "is chosen by rows of frames, and under --from there are none; "
                f"choose one of {', '.join(self.latent_codecs)}",
            )
            _require(self.freeze_at == 0, "--freeze-at", self.freeze_at, "under --from it is 0; leave it out")
        elif self.freeze_at is not None:
            _at_least_one("--freeze-at", self.freeze_at)
            _require(
                self.freeze_at <= self.total_timesteps,
                "--freeze-at",
                self.freeze_at,
                f"the run ends at step {self.total_timesteps}; give an earlier step, or never",
            )

    @property
    def env_options(self) -> EnvOptions:
        """What `make_env` needs beside the id."""
        return EnvOptions(
            self.protocol,
            self.resolution,
            self.action_repeat,
            self.color,
            self.render_observations,
            self.resize,
            self.blank_at_lost_life,
        )

    @property
    def latent_codecs(self) -> tuple[str, ...]:
        """The codecs that the rows of a run like this one can have, where it takes none that are calibrated already."""
        return tuple(name for name in LATENT_ELEMENT_BYTES if self.source is None or name not in CALIBRATED)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainConfig":
        """Read back what `to_json` gave. Raises BadInputError for missing, unknown or unusable entries."""
        try:
            entries = {**BEFORE_RECORDED, **data}
            given = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in dict(entries.pop("settings")).items()
            }
            return _read(cls, {**entries, "settings": _read(ALGORITHMS[entries["algo"]].settings, given)})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"config.json: not a configuration of this version ({error})") from error
        except BadInputError as error:
            raise BadInputError(f"config.json: {error}") from error


def _read(kind: type[Value], entries: dict[str, Any]) -> Value:
    """A dataclass of all its fields, defaults too: `to_json` has written every one."""
    missing = {field.name for field in dataclasses.fields(cast(Any, kind))} - set(entries)
    if missing:
        raise ValueError(f"without {', '.join(sorted(missing))}")
    return kind(**entries)


def _require(holds: bool, flag: str, value: object, mend: str) -> None:
    if not holds:
        raise BadInputError(f"{flag} {value}: {mend}")


def _at_least_one(flag: str, value: int) -> None:
    _require(value >= 1, flag, value, "give a whole number of at least 1")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, flag, value, f"choose one of {', '.join(choices)}")


def resolve_freeze_at(
    given: int | str | None, preset: Preset, source: str | None, *, total_timesteps: int, frame_capacity: int
) -> tuple[int | None, str]:
    """T_f and the reason for it, shown in the plan.

    The preset has one T_f for a replay that holds the whole run and one for a replay that does not. In a run shorter
    than 2.5 times that, T_f is 40 % of the run. An encoder that comes from another run is frozen from step 0.
    """
    if source is not None:
        _require(given is None, "--freeze-at", given, "the encoder of --from is frozen from step 0; leave it out")
        return 0, "--from"
    if given == NEVER:
        return None, "--freeze-at never"
    if given is not None:
        return int(given), "--freeze-at"
    whole = frame_capacity >= total_timesteps
    freeze_at = preset.freeze_at_whole if whole else preset.freeze_at_bounded
    if total_timesteps < SHORT_RUN_FACTOR * freeze_at:
        reason = f"40 % of a run shorter than {SHORT_RUN_FACTOR} x the preset's {freeze_at:,}"
        return max(1, int(SHORT_RUN_FRACTION * total_timesteps)), reason
    return freeze_at, f"preset {preset.name}, a replay that {'holds' if whole else 'does not hold'} the whole run"


def choose_preset(env: EnvSpec, name: str | None = None, algo: str | None = None) -> Preset:
    """The preset `name`, else the task's, for the agent `algo`, else its own.

    Raises BadInputError where agent, preset and actions do not go together.
    """
    preset = preset_for(name or env.name, continuous=isinstance(env.actions, Continuous))
    wanted = algo or preset.algo
    try:
        check_actions(wanted, env)
    except ValueError as error:
        flag = f"--algo {wanted}" if algo else f"--preset {preset.name}"
        raise BadInputError(f"{flag}: {error}") from error
    settings = preset.settings
    if not isinstance(settings, ALGORITHMS[wanted].settings):
        raise BadInputError(f"--preset {preset.name}: is one of {preset.algo}; name another or leave it out")
    if isinstance(settings, SacSettings):
        settings = dataclasses.replace(settings, contrastive=wanted == "curl-sac")
    return dataclasses.replace(preset, algo=wanted, settings=settings)


def build_config(
    env: EnvSpec,
    *,
    preset: str | None = None,
    algo: str | None = None,
    mem_budget_bytes: int | None = None,
    total_timesteps: int | None = None,
    freeze_at: int | str | None = None,
    encoder: str | None = None,
    latent_codec: str | None = None,
    augmentations: int | None = None,
    eval_every: int | None = None,
    eval_episodes: int | None = None,
    source: str | None = None,
    **others: Any,
) -> TrainConfig:
    """A configuration from what the user gave; None leaves it to the preset. Raises BadInputError."""
    chosen = choose_preset(env, preset, algo)
    budget = _given(mem_budget_bytes, chosen.mem_budget_bytes)
    steps = _given(total_timesteps, chosen.total_timesteps)
    step, reason = resolve_freeze_at(
        freeze_at, chosen, source, total_timesteps=steps, frame_capacity=budget // math.prod(env.frame_shape)
    )
    return TrainConfig(
        env=env.id,
        env_name=env.name,
        preset=chosen.name,
        algo=chosen.algo,
        mem_budget_bytes=budget,
        total_timesteps=steps,
        freeze_at=step,
        freeze_reason=reason,
        encoder=_given(encoder, chosen.encoder),
        latent_codec=_given(latent_codec, TrainConfig.latent_codec),
        augmentations=_augmentations(augmentations, chosen, env),
        action_repeat=None if env.as_registered else chosen.action_repeat,
        source=source,
        resize=env.resize,
        eval_every=_given(eval_every, chosen.evaluate_every),
        eval_episodes=_given(eval_episodes, chosen.evaluation_episodes),
        log_every=max(1, min(LOG_EVERY_STEPS, steps // 20)),
        settings=chosen.settings,
        **others,
    )


def _given(value: Value | None, preset: Value) -> Value:
    return preset if value is None else value


def _augmentations(given: int | None, preset: Preset, env: EnvSpec) -> int:
    """K, which is 1 where a crop is the whole frame: there is but one view to store."""
    if env.crop_shape == env.frame_shape[-2:]:
        _require(given in (None, 1), "--augmentations", given, f"{env.name} is seen whole, without crops; leave it out")
        return 1
    return _given(given, preset.augmentations)
