"""Warnings of a plan: settings that work, but probably not as the user wants."""

from collections.abc import Mapping

from seer_edge.config.config import TrainConfig
from seer_edge.config.freeze_step import SHORT_RUN, short_run_freeze
from seer_edge.config.plan_replay import FLOAT_BYTES
from seer_edge.config.registry import ALGORITHMS, Networks
from seer_edge.config.values import AUTO
from seer_edge.envs import Continuous
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.policy.bundle import HEAD, MEMBER_BYTES_MAX
from seer_runtime.replay.codecs import latent_codec
from seer_runtime.system.units import format_size


def run_warnings(config: TrainConfig, networks: Networks, *, frozen: bool) -> tuple[str, ...]:
    """Return warnings of a run that learns less than it could, or cannot be exported."""
    early = () if frozen else _short_run_warnings(config)
    return (*_learning_warnings(config), *early, *_export_warnings(config, networks))


def _export_warnings(config: TrainConfig, networks: Networks) -> tuple[str, ...]:
    """Return a warning if `export` would write a head that `act` refuses to read."""
    head_bytes = networks.policy_parameters * FLOAT_BYTES
    if head_bytes <= MEMBER_BYTES_MAX[HEAD]:
        return ()
    return (
        f"--encoder {config.encoder}: this run cannot be exported: its head takes {format_size(head_bytes)} and `act` "
        f"reads at most {format_size(MEMBER_BYTES_MAX[HEAD])}; choose another encoder or a smaller `hidden`",
    )


def freeze_warnings(
    config: TrainConfig, encoder: EncoderSpec, capacity: int, frame_row: int, latent_row: int, latent_replay: bool
) -> tuple[str, ...]:
    """Return warnings of a freeze that does not help: `frame_row` and `latent_row` are bytes, `capacity` is frames."""
    warnings = []
    if latent_replay and latent_row > frame_row:
        row_bytes = {
            name: latent_codec(name, encoder.latent_shape, config.augmentations).row_bytes
            for name in config.latent_codecs
        }
        rows = {name: capacity * frame_row // size for name, size in row_bytes.items()}
        growing = [f"{name} ({count:,} rows)" for name, count in rows.items() if count > capacity]
        shrinks = "may shrink" if config.latent_codec == AUTO else "will shrink"
        hint = f"it grows with {', '.join(growing)}" if growing else "no codec makes it grow"
        warnings.append(
            f"--latent-codec {config.latent_codec}: the freeze {shrinks} the capacity from {capacity:,} to "
            f"{capacity * frame_row // latent_row:,} rows; {hint}"
        )
    if config.freeze_at is not None and not latent_replay:
        warnings.append(
            f"--freeze-layers {config.freeze_layers}: a latent of {latent_row:,} B is larger than a frame of "
            f"{frame_row:,} B, so the replay keeps frames: the freeze saves compute, not memory"
        )
    if config.freeze_at and config.freeze_at == config.total_timesteps:
        warnings.append(f"--freeze-at {config.freeze_at}: is the last step, so the agent never learns from latents")
    starts = config.settings.learning_starts
    if config.freeze_at and config.freeze_at <= starts:
        warnings.append(
            f"the freeze at step {config.freeze_at:,} comes before learning starts, at step {starts:,}, so the encoder "
            "would be frozen untrained; give a later --freeze-at, or --set learning_starts=N with a smaller N"
        )
    return tuple(warnings)


def _learning_warnings(config: TrainConfig) -> tuple[str, ...]:
    """Return a warning if the run makes no update, unless its freeze comes first: see `freeze_warnings`."""
    starts, total = config.settings.learning_starts, config.total_timesteps
    if config.freeze_at or total > starts:
        return ()
    return (
        f"the run ends at step {total:,}, before its first update, because learning starts after step {starts:,}; give "
        "more --total-timesteps, or --set learning_starts=N with a smaller N",
    )


def _short_run_warnings(config: TrainConfig) -> tuple[str, ...]:
    """Return a warning if a run on a control task freezes before the preset's step. See docs/results/freeze."""
    step = short_run_freeze(config.total_timesteps)  # a run that became longer has that of its first length
    is_early = config.freeze_reason.startswith(SHORT_RUN) and config.settings.learning_starts < step == config.freeze_at
    if not is_early or ALGORITHMS[config.algo].actions is not Continuous:
        return ()
    return (
        f"the freeze at step {step:,} is earlier than the preset's. Short runs on a control task returned less with "
        "such a freeze: give --freeze-at never, or more --total-timesteps",
    )


def drop_warnings(config: TrainConfig, frames: int | None, latents: Mapping[str, int | None]) -> tuple[str, ...]:
    """Return a warning if the freeze of a run with --store compact will drop rows.

    `frames` and `latents`, the latter by codec, are how many are expected to fit, and None if unknown.
    """
    if frames is None or not config.freeze_at:
        return ()
    rows = min(frames, config.freeze_at)
    fits = {name: count for name, count in latents.items() if count is not None}
    used = fits if config.latent_codec == AUTO else {config.latent_codec: fits.get(config.latent_codec, rows)}
    fewest = min(used.values(), default=rows)
    if fewest >= rows:
        return ()
    keeping = [name for name, count in fits.items() if count >= rows]
    hint = f"all fit with {', '.join(keeping)}" if keeping else "give a larger --mem-budget to keep more"
    drops = "may drop" if config.latent_codec == AUTO else "will probably drop"
    return (
        f"--latent-codec {config.latent_codec}: the freeze {drops} the oldest rows, because about {rows:,} frames are "
        f"expected before it and about {fewest:,} latents fit after it; {hint}",
    )
