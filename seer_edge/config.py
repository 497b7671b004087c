"""The configuration of a run: everything resolved, validated where it is built, written to `config.json`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from seer_edge.envs import ProtocolName
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.presets import Preset, RainbowSettings, preset_for
from seer_edge.validation import check_types
from seer_runtime.codecs import LATENT_ELEMENT_BYTES

NEVER = "never"
SHORT_RUN_FRACTION = 0.4
SHORT_RUN_FACTOR = 2.5
LOG_EVERY_STEPS = 1_000
MAX_THREADS = 256

PROTOCOLS = ("paper", "machado")
REPLAYS = ("uniform", "prioritized")


@dataclass(frozen=True)
class TrainConfig:
    """One run. Steps are agent steps, sizes are bytes."""

    env: str  # resolved id, as `make_env` takes it
    env_name: str
    preset: str
    mem_budget_bytes: int
    total_timesteps: int
    freeze_at: int | None  # T_f, or None for never
    freeze_reason: str
    protocol: ProtocolName = "paper"
    algo: str = "rainbow"
    encoder: str = "data-efficient"
    latent_codec: str = "float32"
    replay: str = "uniform"
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    eval_every: int = 10_000
    eval_episodes: int = 10
    log_every: int = LOG_EVERY_STEPS
    tensorboard: bool = False
    rainbow: RainbowSettings = field(default_factory=RainbowSettings)

    def __post_init__(self) -> None:
        _one_of("--protocol", self.protocol, PROTOCOLS)
        _one_of("--replay", self.replay, REPLAYS)
        _one_of("--encoder", self.encoder, tuple(ENCODERS))
        _one_of("--latent-codec", self.latent_codec, tuple(LATENT_ELEMENT_BYTES))
        check_types(self)
        _require(self.mem_budget_bytes >= 1, "--mem-budget", self.mem_budget_bytes, "give at least one byte")
        _at_least_one("--total-timesteps", self.total_timesteps)
        _require(1 <= self.threads <= MAX_THREADS, "--threads", self.threads, f"give 1 to {MAX_THREADS}")
        _at_least_one("--eval-every", self.eval_every)
        _at_least_one("--eval-episodes", self.eval_episodes)
        _at_least_one("log_every", self.log_every)
        _require(0 <= self.seed < 2**32, "--seed", self.seed, "give a whole number from 0 to 4294967295")
        if self.freeze_at is not None:
            _at_least_one("--freeze-at", self.freeze_at)
            _require(
                self.freeze_at <= self.total_timesteps,
                "--freeze-at",
                self.freeze_at,
                f"the run ends at step {self.total_timesteps}; give an earlier step, or never",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data for `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainConfig":
        """Read back what `to_json` gave. Raises BadInputError for missing, unknown or unusable entries."""
        try:
            settings = dict(data)
            rainbow = dict(settings.pop("rainbow"))
            rainbow["value_range"] = tuple(rainbow["value_range"])
            return cls(**settings, rainbow=RainbowSettings(**rainbow))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"config.json: not a configuration of this version ({error})") from error


def _require(holds: bool, flag: str, value: object, mend: str) -> None:
    if not holds:
        raise BadInputError(f"{flag} {value}: {mend}")


def _at_least_one(flag: str, value: int) -> None:
    _require(value >= 1, flag, value, "give a whole number of at least 1")


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, flag, value, f"choose one of {', '.join(choices)}")


def resolve_freeze_at(
    given: int | str | None, preset: Preset, *, total_timesteps: int, frame_capacity: int
) -> tuple[int | None, str]:
    """T_f and the reason for it, shown in the plan.

    The preset has one T_f for a replay that holds the whole run and one for a replay that does not. In a run shorter
    than 2.5 times that, T_f is 40 % of the run.
    """
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


def build_config(
    *,
    env: str,
    env_name: str,
    frame_bytes: int,
    preset: str | None = None,
    mem_budget_bytes: int | None = None,
    total_timesteps: int | None = None,
    freeze_at: int | str | None = None,
    encoder: str | None = None,
    eval_every: int | None = None,
    eval_episodes: int | None = None,
    **others: Any,
) -> TrainConfig:
    """A configuration from what the user gave (None: the preset decides) and the environment's frame size."""
    chosen = preset_for(preset or env_name)
    budget = chosen.mem_budget_bytes if mem_budget_bytes is None else mem_budget_bytes
    steps = chosen.total_timesteps if total_timesteps is None else total_timesteps
    step, reason = resolve_freeze_at(freeze_at, chosen, total_timesteps=steps, frame_capacity=budget // frame_bytes)
    return TrainConfig(
        env=env,
        env_name=env_name,
        preset=chosen.name,
        mem_budget_bytes=budget,
        total_timesteps=steps,
        freeze_at=step,
        freeze_reason=reason,
        encoder=chosen.encoder if encoder is None else encoder,
        eval_every=chosen.evaluate_every if eval_every is None else eval_every,
        eval_episodes=chosen.evaluation_episodes if eval_episodes is None else eval_episodes,
        log_every=max(1, min(LOG_EVERY_STEPS, steps // 20)),
        rainbow=chosen.rainbow,
        **others,
    )
