"""The configuration of a new run: what the user gave, and the values of its preset for the rest."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from seer_edge.config.config import LOG_EVERY_STEPS, TrainConfig, check_algo
from seer_edge.config.freeze_step import freeze_fields
from seer_edge.config.hyperparameters import is_preset_file, override, preset_from_file
from seer_edge.config.presets import Preset
from seer_edge.config.registry import choose_preset
from seer_edge.config.request import EvalIn, StoreName
from seer_edge.config.values import NEVER
from seer_edge.envs import Continuous, EnvSpec

Value = TypeVar("Value")


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
    eval_every: int | str | None = None,
    eval_episodes: int | None = None,
    eval_in: EvalIn | None = None,
    log_every: int | None = None,
    tensorboard: bool = False,
    tensorboard_dir: str | None = None,
    source: str | None = None,
    store: StoreName = "paper",
    overrides: Mapping[str, Any] | None = None,
    **others: Any,
) -> TrainConfig:
    """Return the configuration of a new run. None leaves an option to the preset. Raises BadInputError."""
    if algo is not None:
        check_algo(algo)
    from_file = preset is not None and is_preset_file(preset)
    chosen = preset_from_file(env, preset or "", algo) if from_file else choose_preset(env, preset, algo)
    chosen, changed = override(chosen, overrides or {})
    budget = _given(mem_budget_bytes, chosen.mem_budget_bytes)
    steps = _given(total_timesteps, chosen.total_timesteps)
    capacity, compact = budget // math.prod(env.frame_shape), store == "compact"
    freeze = freeze_fields(freeze_at, chosen, source, total_timesteps=steps, frame_capacity=capacity, compact=compact)
    every: Any = _given(eval_every, chosen.eval_every)
    return TrainConfig(
        env=env.id,
        env_name=env.name,
        preset=chosen.name,
        algo=chosen.algo,
        mem_budget_bytes=budget,
        total_timesteps=steps,
        **freeze,
        encoder=_given(encoder, chosen.encoder),
        latent_codec=_given(latent_codec, _latent_codec(store, source)),
        augmentations=_augmentations(augmentations, chosen, env),
        action_repeat=chosen.action_repeat if _repeats_actions(env) else None,
        source=source,
        store=store,
        resize=env.resize,
        eval_every=None if every == NEVER else every,
        eval_episodes=_given(eval_episodes, chosen.eval_episodes),
        # Cameras, serial ports and simulators can often be opened only once.
        eval_in=_given(eval_in, "training" if env.as_registered else "separate"),
        log_every=_given(log_every, max(1, min(LOG_EVERY_STEPS, steps // 20))),
        tensorboard=tensorboard or tensorboard_dir is not None,
        tensorboard_dir=tensorboard_dir,
        settings=chosen.settings,
        overrides=changed,
        environment=env,
        **others,
    )


def _repeats_actions(env: EnvSpec) -> bool:
    """Whether the action repeat of a preset applies: to control tasks only."""
    return isinstance(env.actions, Continuous) and not env.as_registered


def _latent_codec(store: StoreName, source: str | None) -> str:
    """Return the default of --latent-codec. An imported encoder leaves no frames to calibrate a quantized codec on."""
    return "uint8" if store == "compact" and source is None else TrainConfig.latent_codec


def _given(value: Value | None, preset: Value) -> Value:
    return preset if value is None else value


def _augmentations(given: int | None, preset: Preset, env: EnvSpec) -> int:
    """Return K. The default is 1 if the crop is the whole frame."""
    return _given(given, 1 if env.crop_shape == env.frame_shape[-2:] else preset.augmentations)
