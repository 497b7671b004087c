"""The step of the freeze, T_f, and its default."""

from typing import Any

from seer_edge.config.presets.preset import Preset
from seer_edge.config.values import AUTO, NEVER
from seer_edge.errors import BadInputError

SHORT_RUN_FRACTION = 0.4
SHORT_RUN_FACTOR = 2.5
SHORT_RUN = "40 % of a run shorter than"
"""The reason of a freeze in a short run begins so."""
AUTO_LATEST = 0.5
"""Share of the run after which --freeze-at auto freezes in any case."""
WINDOW_STEPS = 10_000
WINDOWS = 20
"""With --freeze-at auto a window has that many steps, or a shorter run has that many windows."""


def short_run_freeze(total_timesteps: int) -> int:
    """Return the step of the freeze of a run of so many steps, if that is too short for the preset's."""
    return max(1, int(SHORT_RUN_FRACTION * total_timesteps))


def given_freeze(given: int | str, total_timesteps: int) -> dict[str, Any]:
    """Return the fields of `TrainConfig` for a value of --freeze-at."""
    if given == AUTO:
        latest = max(1, int(AUTO_LATEST * total_timesteps))
        window = max(1, min(WINDOW_STEPS, total_timesteps // WINDOWS))
        return {"freeze_at": latest, "freeze_reason": "--freeze-at auto", "freeze_window": window}
    if given == NEVER:
        return {"freeze_at": None, "freeze_reason": "--freeze-at never", "freeze_window": None}
    return {"freeze_at": int(given), "freeze_reason": "--freeze-at", "freeze_window": None}


def freeze_fields(
    given: int | str | None,
    preset: Preset,
    source: str | None,
    *,
    total_timesteps: int,
    frame_capacity: int,
    compact: bool = False,
) -> dict[str, Any]:
    """Return the fields of `TrainConfig` for the freeze of a new run. The plan shows the reason.

    The preset has one T_f for a replay that holds the whole run and one for a replay that does not. `frame_capacity` is
    that of uncompressed rows, also if the replay is `compact`. In a run shorter than 2.5 times that, T_f is 40 % of the
    run. An imported encoder is frozen from step 0. Raises BadInputError if --freeze-at is given too then.
    """
    if source is not None:
        if given is not None:
            raise BadInputError(f"--freeze-at {given}: the encoder of --from is frozen from step 0; leave it out")
        return {"freeze_at": 0, "freeze_reason": "--from"}
    if given is not None:
        return given_freeze(given, total_timesteps)
    whole = frame_capacity >= total_timesteps
    freeze_at = preset.freeze_at_whole if whole else preset.freeze_at_bounded
    if total_timesteps < SHORT_RUN_FACTOR * freeze_at:
        reason = f"{SHORT_RUN} {SHORT_RUN_FACTOR} x the preset's {freeze_at:,}"
        return {"freeze_at": short_run_freeze(total_timesteps), "freeze_reason": reason}
    reason = f"preset {preset.name}, a replay that {'holds' if whole else 'does not hold'} the whole run"
    reason += " uncompressed" * compact
    return {"freeze_at": freeze_at, "freeze_reason": reason}
